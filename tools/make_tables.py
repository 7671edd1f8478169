"""Write the tables of the README files from logs and benchmarks' JSON, and
the results of the metafiles from logs.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; no figure
in it is typed. NAME is one of TABLES here, a file that a tool in TOOLS has
written, such as ``results/NAME/edge_auc.json``, or the definition of a table,
such as ``tables/camvid.yml``: it is filled from the logs in
``results/camvid``.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import export_student
import pandas as pd
import step_cost
import yaml
from analysis_tools import (
    check_connectivity,
    edge_auc,
    error_by_distance,
    gradient_norms,
    per_class,
)

from mmbckd.analysis.formatting import heading, markdown_table
from mmbckd.analysis.runs import Log, results_log
from mmbckd.analysis.tables import read_table, summarize, to_markdown
from mmbckd.analysis.tables.definition import Row, Table, read_config

ROOT = Path(__file__).resolve().parents[1]


def defined(name: str, rows: Sequence[str] = ()) -> list[str]:
    """A table by its definition, from the logs that run_table.py kept.

    ``rows`` are the titles of those to show beside teacher and student, if not
    all.
    """
    table = read_table(ROOT / name)
    if rows:
        titles = {row.title for pair in table.pairs for row in pair.distilled}
        if unknown := set(rows) - titles:
            sys.exit(
                f'Expected rows among {sorted(titles)} of {name}, but got '
                f'{sorted(unknown)}. Correct the page that shows them.'
            )
        table = table._replace(
            rivals=[title for title in table.rivals if title in rows],
            pairs=[
                pair._replace(
                    distilled=[r for r in pair.distilled if r.title in rows]
                )
                for pair in table.pairs
            ],
        )
    costs = ROOT / 'results' / table.name / 'costs.json'
    return to_markdown(
        summarize(
            table,
            kept_log(table),
            **json.loads(costs.read_text()) if costs.exists() else {},
        )
    )


def written(name: str) -> list[str]:
    """A table of a file that a tool has written."""
    path = ROOT / name
    (tool,) = (
        tool for prefix, tool in TOOLS.items() if path.name.startswith(prefix)
    )
    return tool.table(json.loads(path.read_text()))


def kept_log(table: Table) -> Callable[[Row, int], Log | None]:
    """The logs of a table that tools/run_table.py kept."""
    folder = ROOT / 'results' / table.name
    return lambda row, seed: results_log(folder, row.run_name(seed))


def summarized(table: Table) -> Iterator[tuple[Row, dict]]:
    """The rows of a table, and what their kept logs say."""
    rows = (row for pair in table.pairs for row in pair.rows)
    return zip(rows, summarize(table, kept_log(table))['rows'])


def results() -> dict[str, list[dict]]:
    """The results of configs by their names, in the terms of metafiles."""
    found = {}
    for path in sorted((ROOT / 'tables').glob('*.yml')):
        table = read_table(path)
        for row, line in summarized(table):
            if not row.variant and line['metrics'] and not is_overfit(row):
                found[row.name] = [
                    dict(
                        Task=task,
                        Metrics={
                            name: round(
                                line['metrics'][key]['mean'] * 10**power,
                                table.decimals - power,
                            )
                            for name, key, power in metrics
                            if key in line['metrics']
                        },
                    )
                    for task, metrics in TASKS.items()
                    if metrics[0][1] in line['metrics']
                ]
    return found


def is_overfit(row: Row) -> bool:
    """Whether a config is evaluated on what it is trained on."""
    config = read_config(row.config)
    train, val = (
        config[f'{part}_dataloader'].dataset for part in ('train', 'val')
    )
    return all(
        train.get(key) == val.get(key) for key in ('ann_file', 'data_prefix')
    )


def fill_metafile(text: str, found: dict[str, list[dict]]) -> str:
    """A metafile with the results of what was run, and no others."""
    metafile = yaml.safe_load(text)
    for model in metafile.get('Models', []):
        model.pop('Results', None)
        if model['Name'] in found:
            data = dict(Dataset=model['Metadata']['Training Data'])
            model['Results'] = [{**data, **r} for r in found[model['Name']]]
    return yaml.safe_dump(
        metafile, sort_keys=False, allow_unicode=True, width=sys.maxsize
    )


def gradients() -> list[str]:
    """Gradients relative to the task's, before and after the sweep."""
    folder = ROOT / 'results' / 'camvid'
    names = [
        f'gradients_{when}{which}.json'
        for which in ('_before', '')
        for when in ('start', 'end')
    ]
    losses = [
        json.loads((folder / name).read_text())['losses'] for name in names
    ]
    return markdown_table(
        [
            'to the task',
            *(
                f'{which}, {when} of training'
                for which in ('before', 'now')
                for when in ('start', 'end')
            ),
        ],
        [
            [name, *(f'{loss[name]["ratio"]:.0%}' for loss in losses)]
            for name in losses[0]
            if name != 'task'
        ],
    )


def sweep(name: str) -> list[str]:
    """The runs that defaults were chosen by, and the medians of levels."""
    table = read_table(ROOT / 'tables' / f'{name}.yml')
    runs = [
        (
            levels(row, SWEEPS[name]),
            {metric: cell['mean'] for metric, cell in line['metrics'].items()},
        )
        for row, line in summarized(table)
        if row.options
    ]
    heads = [heading(metric) for metric in table.metrics]
    form = f'{{:.{table.decimals}f}}'.format
    medians = [
        [factor, level, *map(form, found.values())]
        for (factor, level), found in level_medians(runs).items()
    ]
    every = [
        [
            *found.values(),
            *(
                form(metrics[m]) if metrics else 'not run'
                for m in table.metrics
            ),
        ]
        for found, metrics in runs
    ]
    return [
        *markdown_table(['', 'level', *heads], medians),
        '',
        'The runs:',
        '',
        *markdown_table([*runs[0][0], *heads], every),
    ]


def levels(row: Row, factors: dict[str, list[str]]) -> dict[str, str]:
    """The level of every factor in a run of a sweep."""
    options = dict(row.options)
    found = {
        factor: ', '.join(
            str(options[f'model.distiller.{key}']) for key in keys
        )
        for factor, keys in factors.items()
    }
    return dict(found, seed=str(row.seeds[0]))


def level_medians(runs: list[tuple]) -> dict[tuple, dict[str, float]]:
    """The medians over all runs that had a level, by factor and level."""
    given, metrics = map(pd.DataFrame, zip(*runs))
    medians = {
        factor: metrics.groupby(given[factor], sort=False).median()
        for factor in given
    }
    return pd.concat(medians).dropna().to_dict('index')


def benchmark(name: str) -> dict:
    """What a script under benchmarks/ measured."""
    path = ROOT / 'benchmarks' / 'results' / f'{name}.json'
    return json.loads(path.read_text())


def machine() -> list[str]:
    """Where the benchmarks ran."""
    found = benchmark('context_relation')['environment']
    return [
        '{cpu}, {cores} cores, Python {python}, PyTorch {torch}:'.format(
            **found
        )
    ]


def compared(row: dict, name: str) -> list[str]:
    """Seconds and megabytes of ours and of another, and the ratios."""
    cells = []
    for key, form, unit in (
        ('seconds', '{:.3f}', 1),
        ('peak_memory', '{:.1f}', 1e6),
    ):
        values = [
            form.format(row[x][key] / unit) if x in row else 'not run'
            for x in (name, 'ours')
        ]
        ratio = f'{row["ratio"][key]:.3f}' if 'ratio' in row else ''
        cells += [*values, ratio]
    return cells


COMPARED = ['s', 'ours s', 'ratio', 'MB', 'ours MB', 'ratio']


def context_relation(name: str = 'context_relation') -> list[str]:
    """relation_kl and the plain version."""
    return markdown_table(
        [
            'map',
            *(f'plain {h}' if h in ('s', 'MB') else h for h in COMPARED),
            'of matmul rate',
        ],
        [
            [
                '{}x{}'.format(*row['size']),
                *compared(row, 'plain'),
                f'{row["ours"]["share_of_matmul_rate"]:.0%}',
            ]
            for row in benchmark(name)['rows']
        ],
    )


def onednn_products() -> list[str]:
    """CPU time of the context term on oneDNN's products, over torch.mm's."""
    found = benchmark('onednn_products')['instructions']
    names = {'DEFAULT': 'all of this CPU', 'AVX2': 'AVX2 only'}
    return markdown_table(
        [
            'oneDNN uses',
            *(
                '{}x{}'.format(*row['size'])
                for row in next(iter(found.values()))
            ),
        ],
        [
            [
                names[key],
                *(f'{row["ratio"]["cpu_seconds"]:.2f}' for row in rows),
            ]
            for key, rows in found.items()
        ],
    )


def boundary_affinity() -> list[str]:
    """boundary_affinity_loss and the published way."""
    return markdown_table(
        [
            'map, radius (displacements), teacher',
            *(f'gather {h}' if h in ('s', 'MB') else h for h in COMPARED),
        ],
        [
            [
                '{0[0]}x{0[1]}, {1:g} ({2}), {3}'.format(
                    row['size'],
                    row['radius'],
                    row['displacements'],
                    row['source'],
                ),
                *compared(row, 'published'),
            ]
            for row in benchmark('boundary_affinity')['rows']
        ],
    )


def distillation_step() -> list[str]:
    """Whole training steps, against two of them."""
    found = benchmark('distillation_step')
    rows, bases = found['rows'], ('CWD of MMRazor', 'teacher forward only')
    head = 'PSPNet {teacher} → {student}, {size[0]}x{size[1]}, batch {batch}'
    return markdown_table(
        [
            head.format(**found),
            's',
            'MB',
            *(f'{unit} of {base}' for base in bases for unit in ('s', 'MB')),
        ],
        [
            [
                name,
                f'{row["seconds"]:.2f}',
                f'{row["peak_memory"] / 1e6:.0f}',
                *(
                    f'{row[key] / rows[base][key]:.2f}'
                    for base in bases
                    for key in ('seconds', 'peak_memory')
                ),
            ]
            for name, row in rows.items()
        ],
    )


def distillation_step_full_size() -> list[str]:
    """Training steps of the size that the Cityscapes configs have."""
    found = benchmark('distillation_step_full_size')
    rows = found['rows']
    heads = [
        'PSPNet {teacher} → {student}, {size[0]}x{size[1]}, batch {batch}',
        *('s', 'fastest', 'slowest', 'CPU s', 'of CWD of MMRazor'),
    ]
    whole = rows['CWD of MMRazor']['cpu_seconds']
    return [
        '{cpu}, {threads} thread, PyTorch {torch}:'.format(
            **found['environment']
        ),
        '',
        *markdown_table(
            [head.format(**found) for head in heads],
            [
                [
                    name,
                    *(
                        f'{row[key]:.1f}'
                        for key in (
                            'seconds',
                            'fastest',
                            'slowest',
                            'cpu_seconds',
                        )
                    ),
                    f'{row["cpu_seconds"] / whole:.2f}',
                ]
                for name, row in rows.items()
            ],
        ),
    ]


def long_run() -> list[str]:
    """Memory early and late."""
    found = benchmark('long_run')
    return markdown_table(
        [f'{found["steps"]} steps', 'early MB', 'late MB', 'growth'],
        [
            [
                name,
                f'{found[name]["early"] / 1e6:.0f}',
                f'{found[name]["late"] / 1e6:.0f}',
                f'{found[name]["growth"]:+.1%}',
            ]
            for name in ('one shape', 'many shapes')
        ],
    )


def segmentation_metrics() -> list[str]:
    """Minutes for 500 images, of metrics and of students."""
    found = benchmark('segmentation_metrics')
    ratios = found['ratio_to_inference']
    return markdown_table(
        ['', 'minutes', 'metrics / inference'],
        [
            [
                'both metrics' if name == 'ours' else f'inference of {name}',
                f'{value / 60:.1f}',
                f'{ratios[name]:.2f}' if name in ratios else '',
            ]
            for name, value in found['seconds_for_500'].items()
        ],
    )


BACKENDS = {'onnxruntime': 'ONNX Runtime', 'openvino': 'OpenVINO'}


def onnx_machine() -> list[str]:
    """Where ONNX files ran."""
    found = benchmark('onnx_inference_lite0')['environment']
    return [
        '{cpu} ({instructions}), {threads} thread, '
        'ONNX Runtime {onnxruntime}, OpenVINO {openvino}:'.format(
            **found, instructions=', '.join(found['int8_instructions'])
        )
    ]


def onnx_inference() -> list[str]:
    """Latency of ONNX files, relative to float32 on ONNX Runtime."""
    return markdown_table(
        [
            *('', 'size', 'file', *BACKENDS.values()),
            *(f'{name} ms' for name in BACKENDS.values()),
        ],
        [
            [
                f'EfficientNet-{network.title()} FPN',
                '{1}x{0}'.format(*rows[0]['size']),
                'INT8' if '_int8' in rows[0]['file'] else 'float32',
                *(f'{row["ratio"]["seconds"]:.2f}' for row in rows),
                *(f'{1e3 * row["seconds"]:.0f}' for row in rows),
            ]
            for network in ('lite0', 'lite2')
            for rows in by_file(benchmark(f'onnx_inference_{network}')['rows'])
        ],
    )


def by_file(rows: list[dict]) -> list[list[dict]]:
    """The rows of a file on every backend, in their order."""
    found = {}
    for row in rows:
        found.setdefault(row['file'], []).append(row)
    return list(found.values())


def nncf() -> list[str]:
    """What NNCF makes of a student, beside ONNX Runtime's quantization."""
    path = ROOT / 'results' / 'deploy' / 'nncf_camvid.json'
    return markdown_table(
        [
            'file',
            *(
                f'{heading(key)}, {name}'
                for name in BACKENDS.values()
                for key in ('mIoU', 'mBIoU')
            ),
            *(f'time, {name}' for name in BACKENDS.values()),
        ],
        [
            [
                rows[0]['name'],
                *(
                    f'{row["metrics"][key]:.2f}'
                    for row in rows
                    for key in ('mIoU', 'mBIoU')
                ),
                *(f'{row["ratio"]["seconds"]:.2f}' for row in rows),
            ]
            for rows in by_file(json.loads(path.read_text())['rows'])
        ],
    )


def rknn_simulator() -> list[str]:
    """A student on ONNX Runtime and in RKNN's simulator."""
    found = benchmark('rknn_simulator')
    names = {
        'onnxruntime': 'ONNX Runtime, float32',
        'float16': 'RKNN, float16',
        'int8': 'RKNN, INT8',
    }
    return markdown_table(
        ['', 'mIoU ↑', 'labels as in ONNX Runtime'],
        [
            [
                name,
                f'{found["mIoU"][key]:.2f}',
                f'{found["agreement"][key]:.2f}%'
                if key in found['agreement']
                else '',
            ]
            for key, name in names.items()
        ],
    )


def step_costs() -> list[str]:
    """What the training of every config costs, by data set and pair."""
    path = ROOT / 'configs' / 'step_costs.json'
    costs = {
        row['config']: row for row in json.loads(path.read_text())['rows']
    }
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    groups: dict[str, dict[str, list[str]]] = {}
    for name in index['Import']:
        metafile = yaml.safe_load((ROOT / name).read_text())
        for model in metafile.get('Models', []):
            pairs = groups.setdefault(model['Metadata']['Training Data'], {})
            folder = Path(model['Config']).parent.name
            pairs.setdefault(folder, []).append(model['Name'])
    lines = []
    for data, pairs in groups.items():
        lines += [f'## {data}', '', *pairs_costs(pairs, costs), '']
    measured = next(row for row in costs.values() if 'error' not in row)
    return [*lines, step_cost.NOTE.format(**measured)]


def pairs_costs(
    pairs: dict[str, list[str]], costs: dict[str, dict]
) -> list[str]:
    """A table of the configs of some folders, and what went wrong."""
    blank = [''] * len(step_cost.HEADS)
    rows, reasons = [], []
    for folder, names in pairs.items():
        rows.append([f'**{folder}**', *blank])
        for name in names:
            cost = costs.get(name, {})
            if 'flops' in cost:
                rows.append([name, *step_cost.cells(cost)])
                continue
            rows.append([name, 'not run', *blank[1:]])
            if 'error' in cost:
                reasons.append(f'- {name}: {cost["error"]}')
    lines = markdown_table(['config', *step_cost.HEADS], rows)
    return lines + (['', 'Not run:', '', *reasons] if reasons else [])


# By what the names of the files that they write begin with.
TOOLS = {
    'connectivity': check_connectivity,
    'edge_auc': edge_auc,
    'error_by_distance': error_by_distance,
    'export_student': export_student,
    'gradients': gradient_norms,
    'per_class': per_class,
    'step_cost': step_cost,
}
PAGES = (
    'README.md',
    'benchmarks/README.md',
    'configs/quickstart/README.md',
    'configs/mmseg/README.md',
    'configs/mmdet/README.md',
    'results/README.md',
    'docs/en/step_costs.md',
    'docs/en/user_guides/deploy.md',
)
# What a sweep gave its runs: the options of a factor.
SWEEPS = {
    'camvid-sweep': {
        'λ_bd': ['boundary.loss_weight'],
        'γ': ['boundary.radius'],
        'boundary': ['boundary.student', 'boundary.source'],
        'λ_cd': ['context.loss_weight'],
        'τ': ['context.tau'],
        'centered': ['context.center'],
        'context': ['context.student.source'],
    },
    'camvid-instance-sweep': {
        'λ_bd': ['boundary.loss_weight'],
        'γ': ['boundary.radius'],
        'boundary': ['boundary.student'],
        'affinity': ['boundary.teacher'],
        'λ_cd': ['context.loss_weight'],
        'τ': ['context.tau'],
        'context': ['context.student'],
    },
}
TABLES: dict[str, Callable[[], list[str]]] = {
    make.__name__: make
    for make in (
        gradients,
        machine,
        context_relation,
        onednn_products,
        boundary_affinity,
        distillation_step,
        distillation_step_full_size,
        long_run,
        segmentation_metrics,
        onnx_machine,
        onnx_inference,
        nncf,
        rknn_simulator,
        step_costs,
    )
}
TABLES.update((name, partial(sweep, name)) for name in SWEEPS)
TABLES['context_relation_cuda'] = partial(
    context_relation, 'context_relation_cuda'
)
# By task: a metric's name in metafiles, its key in logs, and the power of ten
# between them. A config has the task if it has the first metric.
TASKS = {
    'Semantic Segmentation': [(k, k, 0) for k in ('mIoU', 'mBIoU', 'b0_err')],
    'Object Detection': [('box AP', 'coco/bbox_mAP', 2)],
    'Instance Segmentation': [
        ('mask AP', 'coco/segm_mAP', 2),
        ('boundary AP', 'coco/boundary_mAP', 2),
    ],
}


def fill(text: str) -> str:
    """The same text with every table made anew."""

    def table(match: re.Match) -> str:
        name = match[2]
        if name.endswith('.yml'):
            lines = defined(name, match[3].split(', ') if match[3] else ())
        else:
            try:
                lines = TABLES[name]() if name in TABLES else written(name)
            except FileNotFoundError:
                lines = ['not run']
        return '\n'.join([match[1], *lines, match[4]])

    return re.sub(
        r'(<!-- table: ([\w./-]+)(?: \(([^)]+)\))? -->)\n'
        r'(?:.*?\n)??(<!-- end -->)',
        table,
        text,
        flags=re.DOTALL,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--check', action='store_true', help='only say whether it would change'
    )
    args = parser.parse_args()
    files = {ROOT / name: fill for name in PAGES}
    metafiles = [
        *(ROOT / 'configs').glob('*/*/metafile.yml'),
        *(ROOT / 'configs').glob('qat/metafile.yml'),
    ]
    files.update(
        dict.fromkeys(metafiles, partial(fill_metafile, found=results()))
    )
    outdated = {
        file: filled
        for file, filled_in in files.items()
        if (filled := filled_in(file.read_text())) != file.read_text()
    }
    if args.check and outdated:
        names = ', '.join(str(file.relative_to(ROOT)) for file in outdated)
        sys.exit(
            f'Expected what the logs and results say in {names}, but got '
            'something else. Run python tools/make_tables.py.'
        )
    for file, filled in outdated.items():
        file.write_text(filled)


if __name__ == '__main__':
    main()
