"""The context relation: relation_kl beside the version that materializes both
relations, forward and backward, against the number of pixels.

Goals at 64x128 pixels: at most 0.4 of the plain version's time and 5 % of its
peak memory; at 128x128 pixels under 200 MB beside the inputs.
"""

import torch
import torch.nn.functional as F
from _measure import (
    Run,
    arguments,
    environment,
    matmul_rate,
    peak_memory,
    seconds,
    write_json,
)
from torch import Tensor

from mmbckd.functional import context_relation, relation_kl

SIZES = ((32, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256))
CHANNELS = (128, 512)  # of student and teacher
PLAIN_LIMIT = 8 * 2**30
DTYPES = ('float32', 'bfloat16', 'float16')


def plain(student: Tensor, teacher: Tensor, tau: float = 0.1) -> Tensor:
    """Both relations as matrices, differentiated by autograd."""
    log_r_s, log_r_t = (
        torch.log_softmax(f.mT @ f / tau, dim=-1)
        for f in (
            F.normalize(student.float().flatten(2), dim=1),
            F.normalize(teacher.float().flatten(2), dim=1),
        )
    )
    return (log_r_t.exp() * (log_r_t - log_r_s)).sum(-1).mean()


LOSSES = dict(plain=plain, ours=relation_kl)


def build(name: str, size: tuple, device: str, dtype: str) -> Run:
    """One forward and backward of a loss on random features."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        torch.randn(1, channels, *size, generator=generator).to(
            device, getattr(torch, dtype)
        )
        for channels in CHANNELS
    )
    student.requires_grad_()

    def run() -> None:
        student.grad = None
        LOSSES[name](student, teacher).backward()

    return run


def operations(num_pixels: int, fused: bool) -> int:
    """Of the matrix products that our scheme cannot do without.

    Tiled: both Gram matrices twice, but half of each, and the gradient. The
    fused kernels compute all of both.
    """
    c_s, c_t = CHANNELS
    grams = 2 * (c_s + c_t) * (2 if fused else 1)
    return num_pixels**2 * (grams + 2 * c_s)


def fits(name: str, size: tuple) -> bool:
    """Whether the five matrices of the plain version stay below the limit."""
    return name != 'plain' or 5 * 4 * (size[0] * size[1]) ** 2 < PLAIN_LIMIT


def measure(size: tuple, device: str, dtype: str, repeats: int) -> dict:
    """Both versions at one size."""
    names = [name for name in LOSSES if fits(name, size)]
    runs = {name: build(name, size, device, dtype) for name in names}
    row = dict(size=size, pixels=size[0] * size[1])
    row.update(seconds(runs, repeats, device))
    runs.clear()
    for name in names:
        row[name]['peak_memory'] = peak_memory(
            build,
            name,
            size,
            device,
            dtype,
            small=(name, (4, 8), device, dtype),
            device=device,
        )
    if 'plain' in row:
        row['ratio'] = {
            key: row['ours'][key] / row['plain'][key]
            for key in ('seconds', 'cpu_seconds', 'peak_memory')
        }
    return row


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        '--sizes',
        type=lambda x: tuple(map(int, x.split('x'))),
        nargs='+',
        default=SIZES,
        metavar='HxW',
    )
    parser.add_argument('--dtype', choices=DTYPES, default='float32')
    parser.add_argument(
        '--tf32', action='store_true', help='allow TF32, on a GPU'
    )
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = args.tf32

    machine = environment(args.device)
    products = matmul_rate(torch.mm, args.device)
    fused = context_relation._runs_triton(torch.empty(0, device=args.device))
    rows = []
    for size in args.sizes:
        row = measure(size, args.device, args.dtype, args.repeats)
        rate = operations(row['pixels'], fused) / row['ours']['seconds']
        row['ours']['share_of_matmul_rate'] = rate / products
        rows.append(row)
        print(describe(row), flush=True)
    write_json(
        args.out,
        dict(
            environment=machine,
            channels=CHANNELS,
            dtype=args.dtype,
            tf32=args.tf32,
            fused=fused,
            repeats=args.repeats,
            operations_per_second=products,
            rows=rows,
        ),
    )


def describe(row: dict) -> str:
    """A line to read while it runs."""
    text = '{}x{}'.format(*row['size'])
    for name in LOSSES:
        if name in row:
            text += '  {} {:.3f} s {:.1f} MB'.format(
                name, row[name]['seconds'], row[name]['peak_memory'] / 1e6
            )
    if 'ratio' in row:
        text += (
            '  ratio {seconds:.3f} (CPU time {cpu_seconds:.3f}), memory '
            '{peak_memory:.3f}'.format(**row['ratio'])
        )
    share = row['ours']['share_of_matmul_rate']
    return f'{text}  {share:.0%} of the matmul rate'


if __name__ == '__main__':
    main()
