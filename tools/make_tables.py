"""Write the tables of the README files from logs and benchmarks' JSON.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; no figure
in it is typed. NAME is one of TABLES here, or the definition of a table, such
as ``configs/tables/camvid.yml``: it is filled from the logs in
``results/camvid``.
"""
import argparse
import json
import re
import sys
from pathlib import Path
from typing import Callable, Dict, List

from mmbckd.report.runs import read_log
from mmbckd.report.tables import lower_is_better
from mmbckd.tables import read_table, summarize, to_markdown
from mmbckd.tables.logs import results_log

ROOT = Path(__file__).resolve().parents[1]
CAMVID = {
    'teacher': 'fpn_r50_1xb8-1.5k_camvid-160x240',
    'student alone': 'fpn_r18-w32_1xb8-1k_camvid-160x240',
    '+ CWD': 'cwd_fpn_r50_fpn_r18-w32_1xb8-1k_camvid-160x240',
    '+ BCKD': 'bckd_fpn_r50_fpn_r18-w32_1xb8-1k_camvid-160x240',
    '+ BCKD + CWD': 'bckd-cwd_fpn_r50_fpn_r18-w32_1xb8-1k_camvid-160x240',
}


METRICS = ('mIoU', 'mBIoU', 'bF1', 'b0_err', 'b1_err', 'whole_regions',
           'stray_fragments')


def markdown(heads: List[str], rows: List[List[str]]) -> List[str]:
    """A Markdown table whose first column is text."""
    lines = [heads, ['---', *['---:'] * (len(heads) - 1)], *rows]
    return [f'| {" | ".join(line)} |' for line in lines]


def metrics_table(rows: Dict[str, dict]) -> List[str]:
    """METRICS by row; what is missing is not run."""
    return markdown(
        ['', *(f'{k} {"↓" if lower_is_better(k) else "↑"}' for k in METRICS)],
        [[
            title,
            *(f'{row[k]:.2f}' if k in row else 'not run' for k in METRICS)
        ] for title, row in rows.items()])


def last_metrics(log: Path) -> dict:
    """The metrics of the last validation in mmengine's JSON log."""
    return read_log([log]).metrics if log.exists() else {}


def quickstart() -> List[str]:
    """The three models of the quickstart."""
    path = ROOT / 'results' / 'quickstart' / 'quickstart.json'
    return metrics_table(json.loads(path.read_text()))


def camvid() -> List[str]:
    """The runs on CamVid."""
    return metrics_table({
        title: last_metrics(ROOT / 'results' / 'camvid' / f'{name}.json')
        for title, name in CAMVID.items()
    })


def defined(name: str) -> List[str]:
    """A table by its definition, of the logs that tools/run_table.py kept."""
    table = read_table(ROOT / name)
    kept = ROOT / 'results' / table.name
    costs = kept / 'costs.json'
    return to_markdown(
        summarize(table, lambda row, seed: results_log(kept, row, seed),
                  **json.loads(costs.read_text()) if costs.exists() else {}))


def benchmark(name: str) -> dict:
    """What a script under benchmarks/ measured."""
    path = ROOT / 'benchmarks' / 'results' / f'{name}.json'
    return json.loads(path.read_text())


def machine() -> List[str]:
    """Where the benchmarks ran."""
    found = benchmark('context_relation')['environment']
    return [
        '{cpu}, {cores} cores, Python {python}, PyTorch {torch}:'.format(
            **found)
    ]


def compared(row: dict, name: str) -> List[str]:
    """Seconds and megabytes of ours and of another, and the ratios."""
    cells = []
    for key, form, unit in (('seconds', '{:.3f}', 1), ('peak_memory', '{:.1f}',
                                                       1e6)):
        values = [
            form.format(row[x][key] / unit) if x in row else 'not run'
            for x in (name, 'ours')
        ]
        ratio = f'{row["ratio"][key]:.3f}' if 'ratio' in row else ''
        cells += [*values, ratio]
    return cells


COMPARED = ['s', 'ours s', 'ratio', 'MB', 'ours MB', 'ratio']


def context_relation() -> List[str]:
    """relation_kl and the plain version."""
    return markdown(['map', *(f'plain {h}' if h in ('s', 'MB') else h
                              for h in COMPARED), 'of matmul rate'], [[
        '{}x{}'.format(*row['size']), *compared(row, 'plain'),
        f'{row["ours"]["share_of_matmul_rate"]:.0%}'
    ] for row in benchmark('context_relation')['rows']])


def boundary_affinity() -> List[str]:
    """boundary_affinity_loss and the published way."""
    return markdown(
        ['map, radius (displacements), teacher',
         *(f'gather {h}' if h in ('s', 'MB') else h for h in COMPARED)], [[
             '{0[0]}x{0[1]}, {1:g} ({2}), {3}'.format(
                 row['size'], row['radius'], row['displacements'],
                 row['source']), *compared(row, 'published')
         ] for row in benchmark('boundary_affinity')['rows']])


def distillation_step() -> List[str]:
    """Whole training steps, against two of them."""
    found = benchmark('distillation_step')
    rows, bases = found['rows'], ('CWD of MMRazor', 'teacher forward only')
    head = 'PSPNet {teacher} → {student}, {size[0]}x{size[1]}, batch {batch}'
    return markdown(
        [head.format(**found), 's', 'MB',
         *(f'{unit} of {base}' for base in bases for unit in ('s', 'MB'))], [[
             name, f'{row["seconds"]:.2f}', f'{row["peak_memory"] / 1e6:.0f}',
             *(f'{row[key] / rows[base][key]:.2f}' for base in bases
               for key in ('seconds', 'peak_memory'))
         ] for name, row in rows.items()])


def long_run() -> List[str]:
    """Memory early and late."""
    found = benchmark('long_run')
    return markdown(
        [f'{found["steps"]} steps', 'early MB', 'late MB', 'growth'], [[
            name, f'{found[name]["early"] / 1e6:.0f}',
            f'{found[name]["late"] / 1e6:.0f}',
            f'{found[name]["growth"]:+.1%}'
        ] for name in ('one shape', 'many shapes')])


def segmentation_metrics() -> List[str]:
    """Minutes for 500 images, of metrics and of students."""
    found = benchmark('segmentation_metrics')
    ratios = found['ratio_to_inference']
    return markdown(['', 'minutes', 'metrics / inference'], [[
        'both metrics' if name == 'ours' else f'inference of {name}',
        f'{value / 60:.1f}', f'{ratios[name]:.2f}' if name in ratios else ''
    ] for name, value in found['seconds_for_500'].items()])


TABLES: Dict[str, Callable[[], List[str]]] = {
    make.__name__: make
    for make in (quickstart, camvid, machine, context_relation,
                 boundary_affinity, distillation_step, long_run,
                 segmentation_metrics)
}
PAGES = ('README.md', 'benchmarks/README.md')


def fill(text: str) -> str:
    """The same text with every table made anew."""

    def table(match: re.Match) -> str:
        try:
            name = match[2]
            lines = defined(name) if '/' in name else TABLES[name]()
        except FileNotFoundError:
            lines = ['not run']
        return '\n'.join([match[1], *lines, match[3]])

    return re.sub(
        r'(<!-- table: ([\w./-]+) -->)\n(?:.*?\n)??(<!-- end -->)',
        table,
        text,
        flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--check',
        action='store_true',
        help='only say whether it would change')
    args = parser.parse_args()
    for page in (ROOT / name for name in PAGES):
        text = page.read_text()
        filled = fill(text)
        if args.check and filled != text:
            sys.exit(f'{page.name} does not hold what the logs and results '
                     'say: run python tools/make_tables.py')
        page.write_text(filled)


if __name__ == '__main__':
    main()
