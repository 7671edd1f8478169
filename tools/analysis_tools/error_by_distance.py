"""Say how far from a true boundary the errors of models lie.

For every model, the error rate of the validation pixels by their distance to
the nearest pixel of another true class. A run is a work directory of ``mim
train``, or a config NAME.py that has its checkpoint NAME.pth beside it. With
--out FILE.json, a plot is written as FILE.svg.
"""

import json
import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from mmengine.utils import track_progress

from mmbckd.analysis.formatting import markdown_table
from mmbckd.analysis.predictions import (
    Predictor,
    predictor_parser,
    read_predictor,
)
from mmbckd.analysis.report.curves import style
from mmbckd.analysis.tables.summary import DASH
from mmbckd.evaluation.functional.error_by_distance import (
    DISTANCES,
    errors_by_distance,
)


def measure(predictor: Predictor) -> dict:
    """The counts of pixels and errors by distance, over all images."""

    def count(index: int) -> list:
        maps = predictor.predict(index)
        return [
            errors_by_distance(
                prediction,
                maps.truth,
                len(predictor.classes),
                ignore_index=predictor.ignore_index,
            )
            for prediction in maps.predictions
        ]

    counts = track_progress(count, range(len(predictor)))
    # Over the images: (runs, errors and pixels, bins).
    total = np.sum(counts, axis=0)
    return dict(
        images=len(predictor),
        # JSON has no infinity.
        distances=[d if math.isfinite(d) else None for d in DISTANCES],
        pixels=total[0, 1].tolist(),
        runs=[
            dict(
                name=run.name,
                config=Path(run.config.filename).stem,
                checkpoint=run.checkpoint.name,
                errors=errors.tolist(),
            )
            for run, (errors, _) in zip(predictor.runs, total)
        ],
    )


def labels(found: dict) -> list[str]:
    """The bins, in words."""
    ends = [0, *found['distances']]
    return [
        f'> {low} px' if high is None else f'{low}–{high} px'
        for low, high in zip(ends, ends[1:])
    ]


def rates(found: dict) -> dict[str, np.ndarray]:
    """The error rate of every run, in percent, NaN where there is no pixel."""
    pixels = np.array(found['pixels'])
    with np.errstate(invalid='ignore'):
        return {
            run['name']: 100 * np.array(run['errors']) / pixels
            for run in found['runs']
        }


def table(found: dict) -> list[str]:
    """What was found, in Markdown."""
    share = 100 * np.array(found['pixels']) / sum(found['pixels'])
    rows = {'share of the pixels, %': share}
    rows.update(
        {f'{name}: wrong, %': rate for name, rate in rates(found).items()}
    )
    return markdown_table(
        ['distance', *labels(found)],
        [
            [name, *(DASH if np.isnan(v) else f'{v:.2f}' for v in values)]
            for name, values in rows.items()
        ],
    )


def draw(found: dict, file: Path) -> None:
    """Draw the error rates over the distance."""
    figure = Figure(figsize=(6, 3.6), layout='constrained')
    axes = figure.add_subplot()
    places = np.arange(len(found['distances']))
    for index, (name, rate) in enumerate(rates(found).items()):
        color, dashes = style(index)
        line = (0, dashes) if dashes else '-'
        axes.plot(places, rate, color=color, ls=line, marker='o', label=name)
    axes.set_xticks(places, labels(found), rotation=45, ha='right')
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel('distance to the nearest pixel of another true class')
    axes.set_ylabel('wrong pixels, %')
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(file, metadata=dict(Date=None))


def main() -> None:
    parser = predictor_parser(__doc__)
    args = parser.parse_args()
    try:
        predictor = read_predictor(
            args.paths, args.names, args.checkpoints, args.device
        )
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    found = measure(predictor)
    print('\n' + '\n'.join(table(found)))
    if args.out:
        out = Path(args.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=2) + '\n')
        draw(found, out.with_suffix('.svg'))


if __name__ == '__main__':
    main()
