"""Tables of what the scripts in benchmarks/ measured."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mmbckd.analysis.formatting import heading, markdown_table


def benchmark(root: Path, name: str) -> dict:
    """What a script under benchmarks/ measured."""
    path = root / 'benchmarks' / 'results' / f'{name}.json'
    return json.loads(path.read_text())


def machine(root: Path) -> list[str]:
    """Where the benchmarks ran."""
    found = benchmark(root, 'context_relation')['environment']
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


def context_relation(root: Path, name: str = 'context_relation') -> list[str]:
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
            for row in benchmark(root, name)['rows']
        ],
    )


def onednn_products(root: Path) -> list[str]:
    """CPU time of the context term on oneDNN's products, over torch.mm's."""
    found = benchmark(root, 'onednn_products')['instructions']
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


def boundary_affinity(root: Path) -> list[str]:
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
            for row in benchmark(root, 'boundary_affinity')['rows']
        ],
    )


def distillation_step(root: Path) -> list[str]:
    """Whole training steps, against two of them."""
    found = benchmark(root, 'distillation_step')
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


def distillation_step_full_size(root: Path) -> list[str]:
    """Training steps of the size that the Cityscapes configs have."""
    found = benchmark(root, 'distillation_step_full_size')
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


def long_run(root: Path) -> list[str]:
    """Memory early and late."""
    found = benchmark(root, 'long_run')
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


def segmentation_metrics(root: Path) -> list[str]:
    """Minutes for 500 images, of metrics and of students."""
    found = benchmark(root, 'segmentation_metrics')
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


def onnx_machine(root: Path) -> list[str]:
    """Where ONNX files ran."""
    found = benchmark(root, 'onnx_inference_lite0')['environment']
    return [
        '{cpu} ({instructions}), {threads} thread, '
        'ONNX Runtime {onnxruntime}, OpenVINO {openvino}:'.format(
            **found, instructions=', '.join(found['int8_instructions'])
        )
    ]


def onnx_inference(root: Path) -> list[str]:
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
            for rows in by_file(
                benchmark(root, f'onnx_inference_{network}')['rows']
            )
        ],
    )


def by_file(rows: list[dict]) -> list[list[dict]]:
    """The rows of a file on every backend, in their order."""
    found = {}
    for row in rows:
        found.setdefault(row['file'], []).append(row)
    return list(found.values())


def nncf(root: Path) -> list[str]:
    """What NNCF makes of a student, beside ONNX Runtime's quantization."""
    path = root / 'results' / 'deploy' / 'nncf_camvid.json'
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


def rknn_simulator(root: Path) -> list[str]:
    """A student on ONNX Runtime and in RKNN's simulator."""
    found = benchmark(root, 'rknn_simulator')
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


TABLES: dict[str, Callable[[Path], list[str]]] = {
    make.__name__: make
    for make in (
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
    )
}
TABLES['context_relation_cuda'] = partial(
    context_relation, name='context_relation_cuda'
)
