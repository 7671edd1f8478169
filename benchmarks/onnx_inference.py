"""Seconds that ONNX files of students take, on ONNX Runtime and on OpenVINO.

All files run in turn, on both and on the same image; ratios are to the first
file on ONNX Runtime. `mim run mmbckd export_student` writes such files.
"""

import re
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import torch
from _measure import arguments, environment, seconds, write_json

from mmbckd.deploy.backends import BACKENDS, open_onnx

# The products of 8-bit integers that an x86 CPU may have, as Linux names them.
INT8_INSTRUCTIONS = ('avx2', 'avx_vnni', 'avx512_vnni', 'amx_int8')


def int8_instructions() -> list[str]:
    """Those that this CPU has."""
    flags = re.search(
        r'^flags\s*: (.*)$', Path('/proc/cpuinfo').read_text(), re.M
    )
    found = flags[1].split() if flags else []
    return [name for name in INT8_INSTRUCTIONS if name in found]


def image_for(file: str) -> np.ndarray:
    """An image of noise that a file takes."""
    (image,) = onnx.load(file).graph.input
    tensor = image.type.tensor_type
    shape = [side.dim_value or 1 for side in tensor.shape.dim]
    noise = np.random.default_rng(0).uniform(-1, 1, shape)
    if tensor.elem_type == onnx.TensorProto.UINT8:
        return (127.5 * (noise + 1)).astype(np.uint8)
    return noise.astype(np.float32)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument('files', nargs='+', help='the float one first')
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    keys = [(file, backend) for file in args.files for backend in BACKENDS]
    timed = seconds(
        {key: partial(open_onnx(*key), image_for(key[0])) for key in keys},
        args.repeats,
    )
    first = timed[keys[0]]
    rows = [
        dict(
            file=Path(file).name,
            megabytes=Path(file).stat().st_size / 1e6,
            size=image_for(file).shape[2:],
            backend=backend,
            **timed[file, backend],
            ratio={
                key: timed[file, backend][key] / first[key]
                for key in ('seconds', 'cpu_seconds')
            },
        )
        for file, backend in keys
    ]
    found = environment()
    found['int8_instructions'] = int8_instructions()
    for package in ('onnx', *BACKENDS):
        found[package] = version(package)
    write_json(
        args.out, dict(environment=found, repeats=args.repeats, rows=rows)
    )


if __name__ == '__main__':
    main()
