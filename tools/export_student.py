"""Export a student to ONNX, and to INT8 by --int8, and compare with PyTorch.

Writes NAME.onnx and a config NAME.py that tests it:
mim test mmsegmentation NAME.py --checkpoint NAME.onnx. Of the checkpoint of a
quantization-aware training it writes NAME_int8.onnx with the scales that were
learned, and NAME.onnx with the float weights. A file that disagrees
with the PyTorch model on the validation images is removed again, and the exit
code is 1.
"""

import argparse
import json
import math
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import mmdet.utils
import mmseg.utils
from mmengine.config import Config, DictAction
from mmengine.runner import Runner, load_checkpoint

from mmbckd import deploy
from mmbckd.analysis.formatting import heading, markdown_table
from mmbckd.deploy import configs
from mmbckd.deploy.comparison import MAX_DIFFERENCE, file_images
from mmbckd.deploy.optional import require
from mmbckd.deploy.quantization import ACTIVATIONS, METHODS
from mmbckd.models.quantization import build_quantization
from mmbckd.models.utils import (
    build_student,
    load_student,
    student_config,
)

# Metrics in the table, of those that the config reports.
METRICS = (
    'mIoU',
    'mBIoU',
    'bF1',
    'b0_err',
    'b1_err',
    'whole_regions',
    'stray_fragments',
)
ENCODINGS = {'float32': 'ONNX, float32', 'int8': 'ONNX, INT8'}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of a student or distillation')
    parser.add_argument('checkpoint', help='checkpoint of either')
    parser.add_argument(
        '--out',
        default='work_dirs/deploy',
        help='folder to write to (default: work_dirs/deploy)',
    )
    parser.add_argument(
        '--name', help='of the files (default: that of the config)'
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='of the images (default: as the model sees the validation '
        'images)',
    )
    parser.add_argument(
        '--input',
        default='normalized',
        choices=('normalized', 'float32', 'uint8'),
        help='images normalized by mean and std, or of 0 to 255 that the '
        'file normalizes itself (default: normalized)',
    )
    parser.add_argument(
        '--channel-order',
        default='bgr',
        choices=('bgr', 'rgb'),
        help='of images of 0 to 255 (default: bgr)',
    )
    parser.add_argument(
        '--output',
        default='logits',
        choices=('logits', 'labels'),
        help='of a segmentor, both in the size of the image (default: logits)',
    )
    parser.add_argument(
        '--dynamic-batch',
        action='store_true',
        help='take any number of images at a time instead of one',
    )
    parser.add_argument(
        '--opset', type=int, default=18, help='at least 17 (default: 18)'
    )
    parser.add_argument(
        '--num-images',
        type=int,
        default=8,
        help='validation images to compare on (default: 8)',
    )
    int8 = parser.add_argument_group('INT8')
    int8.add_argument(
        '--int8', action='store_true', help='write NAME_int8.onnx too'
    )
    int8.add_argument(
        '--num-calibration-images',
        type=int,
        default=64,
        help='training images, without augmentation, that fix the ranges '
        'of the activations (default: 64)',
    )
    int8.add_argument(
        '--method',
        default='minmax',
        choices=METHODS,
        help='how the ranges are fixed (default: minmax)',
    )
    int8.add_argument(
        '--exclude',
        nargs='+',
        default=[],
        metavar='LAYER',
        help='modules to keep in float, such as decode_head.conv_seg',
    )
    int8.add_argument(
        '--activations',
        default='uint8',
        choices=ACTIVATIONS,
        help='int8 is symmetric, as TensorRT wants it (default: uint8)',
    )
    int8.add_argument(
        '--reduce-range',
        action='store_true',
        help='weights of 7 bits, for x86 CPUs without VNNI',
    )
    int8.add_argument(
        '--min-int8-agreement',
        type=float,
        metavar='PERCENT',
        help='labels of a segmentor that must equal those of PyTorch '
        '(default: 90, with learned scales 98, with those of powers of two '
        '99.9)',
    )
    parser.add_argument(
        '--test',
        action='store_true',
        help='also test the student and the files on the test data, and '
        'write what they reach to NAME_results.json',
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='as in mim test'
    )
    args = parser.parse_args()
    for name in ('num_images', 'num_calibration_images'):
        if getattr(args, name) < 1:
            parser.error(
                f'--{name.replace("_", "-")} must be at least 1, but got '
                f'{getattr(args, name)}'
            )
    for value in args.shape or ():
        if value < 1:
            parser.error(f'--shape must be positive, but got {args.shape}')
    args.int8_options = [
        f'--{name.replace("_", "-")}'
        for name in (
            'int8',
            'num_calibration_images',
            'method',
            'exclude',
            'activations',
            'reduce_range',
        )
        if getattr(args, name) != parser.get_default(name)
    ]
    return args


def main() -> None:
    args = parse_args()
    try:
        agree = run(args)
    except (ImportError, OSError, TypeError, ValueError) as error:
        sys.exit(f'export_student: error: {error}')
    sys.exit(not agree)


def run(args: argparse.Namespace) -> bool:
    """Write the files; whether all of them agree with PyTorch."""
    require('onnx', 'onnxscript', 'onnxruntime')
    mmseg.utils.register_all_modules(init_default_scope=False)
    mmdet.utils.register_all_modules(init_default_scope=False)
    config = read_config(args.config)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    out, name = Path(args.out), args.name or Path(args.config).stem
    for written in (out / f'{name}.py', out / f'{name}_int8.py'):
        check_free(written)
    interface = deploy.Interface(args.input, args.channel_order, args.output)
    model = build_student(config).eval()
    load_student(model, args.checkpoint)
    quantization = build_quantization(config, args.checkpoint, model)
    options = args.int8_options
    if quantization is not None and options:
        raise ValueError(
            f'Expected no {", ".join(options)} with the checkpoint of a '
            'quantization-aware training, whose INT8 file is what was '
            'trained. Leave it out, or name the *_student.pth beside the '
            'checkpoint to quantize its float weights anew.'
        )
    if quantization is not None and args.dynamic_batch:
        raise ValueError(
            'Expected no --dynamic-batch with the checkpoint of a '
            'quantization-aware training: PyTorch exports fake quantization '
            'for one image at a time. Leave it out.'
        )
    if options and not args.int8:
        raise ValueError(
            f'Expected --int8 beside {", ".join(options)}, but got none. Add '
            'it.'
        )
    segments = hasattr(model, 'decode_head')
    if args.test and not segments:
        raise ValueError(
            'Expected a segmentor for --test, but got '
            f'{type(model).__name__}: the ONNX file of a detector gives raw '
            'maps, which predict_by_feat decodes in PyTorch.'
        )
    if args.test and not config.get('test_dataloader'):
        raise ValueError(
            'Expected a `test_dataloader` in the config for --test, but '
            'there is none. Add it, with `test_evaluator` and `test_cfg`.'
        )
    val = configs.build_dataset(config, 'val')
    shape = tuple(args.shape or configs.default_shape(config, model))
    out.mkdir(parents=True, exist_ok=True)
    if segments:
        test_config = configs.onnx_config(config, model, shape, interface)

    def keep(file: Path, *limits: float) -> deploy.Comparison:
        found = deploy.compare_onnx(
            part,
            model,
            configs.read_images(val, args.num_images, shape),
            interface,
            exact_sums=quantization is not None,
        )
        keep_if_equal(part, file, found, *limits)
        if segments:
            test_config.dump(file.with_suffix('.py'))
        return found

    files = {}
    least = args.min_int8_agreement
    if least is None and quantization is None:
        least = 90
    elif least is None:
        least = 99.9 if quantization.power_of_two_scales else 98
    part = out / f'{name}.part.onnx'
    file, int8 = out / f'{name}.onnx', out / f'{name}_int8.onnx'
    options = dict(
        dynamic_batch=args.dynamic_batch,
        opset=args.opset,
        dataset_meta=val.metainfo,
    )
    try:
        with quantization.mode('keep') if quantization else nullcontext():
            deploy.export_onnx(model, part, shape, interface, **options)
            files['float32'] = file, keep(file, 99.9, MAX_DIFFERENCE)
        if quantization is not None:
            deploy.export_qdq(quantization, part, shape, interface, **options)
            files['int8'] = int8, keep(int8, least)
        if args.int8:
            train = configs.read_images(
                configs.build_dataset(config, 'train'),
                args.num_calibration_images,
                shape,
            )
            given = [x for x, _ in file_images(model, train, interface)]
            deploy.quantize_int8(
                file,
                part,
                given,
                method=args.method,
                exclude=args.exclude,
                activations=args.activations,
                reduce_range=args.reduce_range,
            )
            files['int8'] = int8, keep(int8, least)
            write_layers(
                deploy.layer_errors(file, int8, given[:4]),
                out / f'{name}_int8_layers.json',
            )
    except Disagreement as error:
        print(error, file=sys.stderr)
        return False
    finally:
        part.unlink(missing_ok=True)
    if args.test:
        learned = args.checkpoint if quantization is not None else None
        test(config, model, learned, files, out / f'{name}_results.json')
    return True


def read_config(path: str) -> Config:
    """A config, with the names of types as text."""
    config = Config.fromfile(path)
    if not Config._is_lazy_import(path):
        return config
    # One in pure Python has classes there; dumped, their names.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(path).name
        config.dump(file)
        return Config.fromfile(file)


def check_free(file: Path) -> None:
    """Refuse to replace a config that no export has written."""
    if file.is_file() and 'ONNXSegmentor' not in file.read_text():
        raise ValueError(
            f'Expected to write the config of an ONNX file to {file}, but '
            'that is a config of your own. Choose another --out or --name.'
        )


class Disagreement(Exception):
    """A file does not compute what the model does."""


def keep_if_equal(
    part: Path,
    file: Path,
    found: deploy.Comparison,
    min_agreement: float,
    max_difference: float = math.inf,
) -> None:
    """Give a file its name, if it agrees with the model."""
    print(f'{file}: {found}', flush=True)
    if not math.isfinite(found.max_difference):
        file.unlink(missing_ok=True)
        raise Disagreement(
            f'Expected finite values from {file.name}, but some are not '
            'finite. It is not kept.'
        )
    if found.max_difference > max_difference or (
        found.agreement is not None and found.agreement < min_agreement
    ):
        file.unlink(missing_ok=True)  # of an earlier export
        raise Disagreement(
            f'Expected {file.name} to agree with the PyTorch model (at least '
            f'{min_agreement:g}% of the labels, values up to '
            f'{max_difference:g} of the largest one), but it does not: '
            f'{found}. It is not kept.'
        )
    part.replace(file)


def write_layers(errors: list, out: Path) -> None:
    """Keep the errors of the layers, and print the largest ones."""
    out.write_text(json.dumps([e._asdict() for e in errors], indent=1) + '\n')
    print(
        '\nRelative error of each quantized output, the largest first (all '
        f'in {out}):\n  {"own":>7} {"total":>7}  layer'
    )
    for error in sorted(errors, key=lambda e: -e.own)[:10]:
        print(f'  {error.own:7.2%} {error.total:7.2%}  {error.layer}')
    print(
        '\n"own" is by rounding that output alone, "total" by all before it '
        'too.\n--exclude keeps layers in float.',
        flush=True,
    )


def test(
    config: Config, model, learned: str | None, files: dict, out: Path
) -> None:
    """Test the student and its files, and write a row for each."""
    plain = config.copy()
    plain.model = student_config(config)

    def load(student) -> None:
        student.load_state_dict(model.state_dict())

    def load_quantized(student) -> None:
        load(student)
        build_quantization(config, learned, student)

    loads = {'PyTorch': load}
    if learned is not None:
        loads['PyTorch, fake-quantized'] = load_quantized
    rows = [
        dict(
            name=name,
            megabytes=None,
            agreement=None,
            metrics=tested(plain, function),
        )
        for name, function in loads.items()
    ]
    for encoding, (file, found) in files.items():
        metrics = tested(
            Config.fromfile(file.with_suffix('.py')),
            lambda student, file=str(file): load_checkpoint(student, file),
        )
        rows.append(
            dict(
                name=ENCODINGS[encoding],
                megabytes=file.stat().st_size / 1e6,
                agreement=found.agreement,
                metrics=metrics,
            )
        )
        # As a run's log, for `mim run mmbckd report NAME.py`.
        record = dict(metrics, step=0)
        file.with_suffix('.json').write_text(json.dumps(record) + '\n')
    found = dict(
        rows=rows,
        cpu=cpu_name(),
        versions={
            package: version(package)
            for package in ('torch', 'onnx', 'onnxscript', 'onnxruntime')
        },
    )
    out.write_text(json.dumps(found, indent=1) + '\n')
    print('\n'.join(['', *table(found), '', f'Written to {out}']))


def tested(config: Config, load: Callable) -> dict[str, float]:
    """The metrics of a config's test, after its model was loaded."""
    with tempfile.TemporaryDirectory() as folder:
        config = config.copy()
        config.work_dir = folder
        config.log_level = 'ERROR'
        config.experiment_name = f'test_{time.time_ns()}'
        for key in (
            'train_dataloader',
            'train_cfg',
            'optim_wrapper',
            'param_scheduler',
            'custom_hooks',
            'load_from',
            'visualizer',
        ):
            config.pop(key, None)
        runner = Runner.from_cfg(config)
        load(runner.model)
        return {
            key: round(float(value), 4) for key, value in runner.test().items()
        }


def cpu_name() -> str:
    """The CPU, as Linux names it."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [x.partition(':')[2] for x in lines if x.startswith('model name')]
    flags = ' '.join(x for x in lines if x.startswith('flags'))
    vnni = 'with' if 'vnni' in flags else 'without'
    return f'{(names or [platform.processor()])[0].strip()} ({vnni} VNNI)'


def table(found: dict) -> list[str]:
    """What was reached, in Markdown."""
    keys = [key for key in METRICS if key in found['rows'][0]['metrics']]
    return [
        *markdown_table(
            ['', *map(heading, keys), 'labels as in PyTorch', 'file'],
            [
                [
                    row['name'],
                    *(f'{row["metrics"][key]:.2f}' for key in keys),
                    *(
                        ['', '']
                        if row['megabytes'] is None
                        else [
                            f'{row["agreement"]:.2f}%',
                            f'{row["megabytes"]:.2f} MB',
                        ]
                    ),
                ]
                for row in found['rows']
            ],
        ),
        '',
        'Run on {}, ONNX Runtime {}.'.format(
            found['cpu'], found['versions']['onnxruntime']
        ),
    ]


if __name__ == '__main__':
    main()
