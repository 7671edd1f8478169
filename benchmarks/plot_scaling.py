"""Time and memory against pixels, ours and the plain version, as a picture."""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parent / 'results'
# Okabe-Ito.
STYLES = dict(
    ours=dict(color='#0072b2', marker='o', label='ours'),
    plain=dict(
        color='#d55e00', marker='s', linestyle='--', label='plain version'
    ),
    published=dict(
        color='#d55e00', marker='s', linestyle='--', label='gather by index'
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', required=True)
    args = parser.parse_args()
    figure = Figure(figsize=(9, 6.4), layout='constrained')
    axes = figure.subplots(2, 2)
    relation, boundary = (
        json.loads((RESULTS / f'{name}.json').read_text())['rows']
        for name in ('context_relation', 'boundary_affinity')
    )
    boundary = [
        row
        for row in boundary
        if row['source'] == 'semantic' and row['radius'] == 5
    ]
    for row, title, rows in zip(
        axes, ('context term', 'boundary term, radius 5'), (relation, boundary)
    ):
        for axis, key, unit, scale in zip(
            row, ('seconds', 'peak_memory'), ('seconds', 'MB'), (1, 1e6)
        ):
            for name, style in STYLES.items():
                points = sorted(
                    (r['pixels'], r[name][key] / scale)
                    for r in rows
                    if name in r
                )
                if points:
                    axis.plot(*zip(*points), **style)
            axis.set(
                xscale='log',
                yscale='log',
                xlabel='pixels of the map',
                ylabel=unit,
                title=f'{title}: {"time" if scale == 1 else "peak memory"}',
            )
            axis.grid(alpha=0.3)
            axis.legend(frameon=False)
    figure.savefig(args.out, dpi=100)


if __name__ == '__main__':
    main()
