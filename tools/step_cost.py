"""Say what a training would cost before it is started.

One step of two made-up images is run on the CPU, at the config's crop and with
random weights: nothing is downloaded, and no data set is needed. FLOPs are
counted, and so are the bytes that are saved for the backward pass; the GPU
hours are an estimate, by --tflops, and not measured.

With --out what was found is kept after every config, and not found again: the
same command goes on where it was stopped.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

from mmengine.config import Config, DictAction
from rich.console import Console
from rich.table import Table

from mmbckd.analysis.formatting import markdown_table
from mmbckd.analysis.step_cost import cost_key, step_cost


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'configs', nargs='+', help='configs of trainings, distilled or not'
    )
    parser.add_argument(
        '--tflops',
        type=float,
        default=10.0,
        help='what a GPU is assumed to sustain, in 1e12 FLOPs a second; it is '
        'far below what its data sheet says (default: 10)',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='of an image (default: what the config trains on)',
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        default=2,
        help='images of the step that is run (default: 2)',
    )
    parser.add_argument(
        '--images',
        type=int,
        help='images of an epoch (default: those of COCO 2017)',
    )
    parser.add_argument(
        '--out',
        help='JSON file to write, or to add to: a config that it has is run '
        'again only if something has changed that the cost depends on',
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser


def cells(row: dict) -> list[str]:
    """What a config costs, in words."""
    teacher = row['teacher']
    step = row['flops']['step']
    losses = row['losses'].values()
    added = row['flops']['backward_distillation'] + sum(
        loss['flops'] for loss in losses
    )
    saved = sum(loss['activations'] for loss in losses)
    return [
        '{}x{}'.format(*row['size']),
        f'{row["gpus"]}x{row["batch"]}',
        f'{row["iterations"]}',
        f'{row["student"]["parameters"] / 1e6:.1f}',
        f'{row["student"]["flops"] / 1e9:.1f}',
        f'{teacher["parameters"] / 1e6:.1f}' if teacher else '—',
        f'{teacher["flops"] / 1e9:.1f}' if teacher else '—',
        f'{step / 1e9:.1f}',
        f'{added / step:.1%}' if teacher else '—',
        f'{row["activations"] / 2**30:.2f}',
        f'{saved / row["activations"]:.0%}' if teacher else '—',
        f'{row["gpu_hours"]:.3g}',
    ]


HEADS = [
    'image',
    'batch',
    'iterations',
    'student M',
    'GFLOPs',
    'teacher M',
    'GFLOPs',
    'step GFLOPs',
    'of the losses',
    'activations GiB',
    'of the losses',
    'GPU hours',
]
NOTE = (
    'Image: height and width; batch: GPUs x images. M: million parameters. '
    'GFLOPs are multiply-adds (in 1e9) of products and convolutions for one '
    'image: of the forward passes in training, and of a step with its '
    'backward passes; element-wise arithmetic is not counted. Activations: '
    'what one GPU saves for the backward pass in float32, scaled from a batch '
    'of {measured_batch}; weights, the optimizer and the teacher come on top. '
    'GPU hours: an estimate of the whole training if a GPU sustains '
    '{tflops:g} TFLOP/s; not measured.'
)


def table(found: dict) -> list[str]:
    """What was found, in Markdown."""
    measured = [row for row in found['rows'] if 'error' not in row]
    return [
        *markdown_table(
            ['config', *HEADS],
            [[row['config'], *cells(row)] for row in measured],
        ),
        '',
        NOTE.format(**measured[0]),
    ]


def show(row: dict) -> None:
    """Print what was found for one config, part by part."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    lines = Table(
        '',
        'M parameters',
        'GFLOPs forward',
        'MiB saved',
        title=row['config'],
    )
    parts = dict(student=row['student'], teacher=row['teacher'] or {})
    for name, part in {**parts, **row['losses']}.items():
        if part:
            lines.add_row(
                name,
                *(
                    f'{part[key] / unit:.1f}' if key in part else ''
                    for key, unit in (
                        ('parameters', 1e6),
                        ('flops', 1e9),
                        ('activations', 2**20),
                    )
                ),
            )
    console.print(lines)
    for head, cell in zip(HEADS, cells(row)):
        console.print(f'{head:16} {cell}')


def read_rows(path: str) -> dict[str, dict]:
    """The rows of a file that was written before, by the names of configs."""
    if not Path(path).is_file():
        return {}
    rows = json.loads(Path(path).read_text())['rows']
    return {row['config']: row for row in rows}


def write_rows(path: str, rows: Iterable[dict]) -> None:
    """Write a file with a line for each config, in the order of names."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ',\n'.join(
        json.dumps(row) for row in sorted(rows, key=lambda r: r['config'])
    )
    part = file.with_name(f'{file.name}.part')
    part.write_text(f'{{"rows": [\n{lines}\n]}}\n')
    part.replace(file)  # at once, so that a stop leaves the old or the new


def main() -> None:
    parser = argument_parser()
    args = parser.parse_args()
    # What upstream's models warn of while they are built is not news.
    warnings.filterwarnings('ignore')
    rows = read_rows(args.out) if args.out else {}
    options = dict(
        batch_size=args.batch_size, size=args.size, images=args.images
    )
    failures = []
    for path in args.configs:
        name = Path(path).stem
        row = rows.get(name, {})
        try:
            config = Config.fromfile(path)
            config.merge_from_dict(args.cfg_options or {})
            if row.get('key') != cost_key(config, **options):
                row = step_cost(config, tflops=args.tflops, **options)
                row = dict(config=name, **row)
        # Whatever one config's model raises, the others are measured.
        except Exception as error:
            reason = str(error) or type(error).__name__
            failures.append(f'{path}: {reason}')
            row = dict(config=name, error=reason.splitlines()[0])
        else:
            row['gpu_hours'] *= row['tflops'] / args.tflops
            row['tflops'] = args.tflops
            show(row)
        rows[name] = row
        if args.out:
            write_rows(args.out, rows.values())
    measured = [row for row in rows.values() if 'error' not in row]
    if measured:
        print(f'\n{NOTE.format(**measured[0])}')
    if failures:
        sys.exit('\n'.join(['Not measured:', *failures]))


if __name__ == '__main__':
    main()
