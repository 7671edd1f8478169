"""Whether oneDNN's products would make the context term faster than torch.mm.

PyTorch reaches oneDNN in float32 only through a private operator. Measured is
``relation_kl``, forward and backward, with each of the two; on this CPU, and
with oneDNN held to AVX2 as on a CPU that has nothing newer.
"""

import multiprocessing
import os
from unittest import mock

import torch
from _measure import arguments, environment, seconds, write_json
from context_relation import build
from torch import Tensor

SIZES = ((32, 64), (64, 64), (64, 128))
INSTRUCTIONS = ('DEFAULT', 'AVX2')


def onednn(a: Tensor, b: Tensor) -> Tensor:
    """a @ b by the private operator."""
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, 'none', [], '')


def measure(threads: int, repeats: int) -> list[dict]:
    """Both ways to multiply, in turn, at every size."""
    torch.set_num_threads(threads)
    rows = []
    for size in SIZES:
        run = build('ours', size, 'cpu', 'float32')

        def run_on_onednn(run=run) -> None:
            with mock.patch.object(torch, 'mm', onednn):
                run()

        row = dict(size=size)
        row.update(
            seconds({'torch.mm': run, 'onednn': run_on_onednn}, repeats)
        )
        row['ratio'] = {
            key: row['onednn'][key] / row['torch.mm'][key]
            for key in ('seconds', 'cpu_seconds')
        }
        print('{}x{}'.format(*size), row['ratio'], flush=True)
        rows.append(row)
    return rows


def main() -> None:
    args = arguments(__doc__).parse_args()
    threads = args.threads or torch.get_num_threads()
    # oneDNN reads the limit once: a process each.
    context = multiprocessing.get_context('spawn')
    results = {}
    for instructions in INSTRUCTIONS:
        os.environ['ONEDNN_MAX_CPU_ISA'] = instructions
        with context.Pool(1) as pool:
            results[instructions] = pool.apply(
                measure, (threads, args.repeats)
            )
    write_json(
        args.out,
        dict(
            environment=dict(environment(), threads=threads),
            repeats=args.repeats,
            instructions=results,
        ),
    )


if __name__ == '__main__':
    main()
