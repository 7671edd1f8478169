"""The boundary term: boundary_affinity_loss beside the published way, which
gathers the boundary map along the whole line of every pair by tables of
indices, built once, and takes the maximum (IRNet). Forward and backward,
against the number of pixels and of displacements.

Goals at 128x256 pixels, radius 5 and 10: at most 1/5 of the published way's
time and 1/10 of its peak memory; time linear in pixels and displacements.
"""

import torch
import torch.nn.functional as F
from _measure import (
    Run,
    arguments,
    environment,
    peak_memory,
    seconds,
    write_json,
)
from torch import Tensor

from mmbckd.functional import boundary_affinity_loss, pair_displacements

CLASSES = 19
# Height, width, radius: the goals', then more pixels, then a larger radius.
GOALS = ((128, 256, 5.0), (128, 256, 10.0))
CASES = GOALS + (
    (32, 64, 5.0),
    (64, 128, 5.0),
    (256, 512, 5.0),
    (128, 256, 2.0),
    (128, 256, 3.0),
    (128, 256, 7.0),
)


def line_tables(height: int, width: int, radius: float) -> list[Tensor]:
    """For each displacement, the indices of its lines, (n + 1, pairs)."""
    index = torch.arange(height * width).view(height, width)
    tables = []
    for dy, dx in pair_displacements(radius):
        n = max(abs(dy), abs(dx))
        offsets = torch.tensor(
            [
                ((2 * dy * k + n) // (2 * n)) * width
                + (2 * dx * k + n) // (2 * n)
                for k in range(n + 1)
            ]
        )
        starts = index[: height - dy, max(-dx, 0) : width - max(dx, 0)]
        tables.append(starts.reshape(-1) + offsets[:, None])
    return tables


def gather_by_index(
    z: Tensor, teacher: Tensor, source: str, tables: list[Tensor]
) -> Tensor:
    """The loss as its formula reads, all pairs at once."""
    if source == 'semantic':
        teacher = F.interpolate(teacher, size=z.shape[-2:], mode='bilinear')
        teacher = teacher.softmax(dim=1)
    z, teacher = z.flatten(1), teacher.flatten(-2)
    maxima = [z[:, table].amax(dim=1) for table in tables]
    ends = [(teacher[..., t[0]], teacher[..., t[-1]]) for t in tables]
    alike = [
        (i * j).sum(1) if source == 'semantic' else (i == j).to(z.dtype)
        for i, j in ends
    ]
    m, a = torch.cat(maxima, dim=1), torch.cat(alike, dim=1)
    return (a * F.softplus(m)).sum() / a.sum() + (
        (1 - a) * F.softplus(-m)
    ).sum() / (1 - a).sum()


def build(
    name: str, source: str, height: int, width: int, radius: float, device: str
) -> Run:
    """One forward and backward for a teacher of a quarter of the side."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 1, height, width, generator=generator).to(device)
    z.requires_grad_()
    if source == 'semantic':
        teacher = torch.randn(
            1, CLASSES, height // 4, width // 4, generator=generator
        )
    else:
        teacher = torch.randint(
            CLASSES, (1, height, width), generator=generator
        )
    teacher = teacher.to(device)
    if name == 'published':
        tables = [t.to(device) for t in line_tables(height, width, radius)]

    def run() -> None:
        z.grad = None
        loss = (
            gather_by_index(z, teacher, source, tables)
            if name == 'published'
            else boundary_affinity_loss(
                z, teacher, source=source, radius=radius
            )
        )
        loss.backward()

    return run


def measure(source: str, case: tuple, device: str, repeats: int) -> dict:
    """Both ways in one case."""
    names = ('published', 'ours')
    row = dict(
        source=source,
        size=case[:2],
        radius=case[2],
        pixels=case[0] * case[1],
        displacements=len(pair_displacements(case[2])),
    )
    row.update(
        seconds(
            {n: build(n, source, *case, device) for n in names},
            repeats,
            device,
        )
    )
    for name in names:
        row[name]['peak_memory'] = peak_memory(
            build,
            name,
            source,
            *case,
            device,
            small=(name, source, 16, 32, 2.0, device),
            device=device,
        )
    row['ratio'] = {
        key: row['ours'][key] / row['published'][key]
        for key in ('seconds', 'cpu_seconds', 'peak_memory')
    }
    return row


def main() -> None:
    parser = arguments(__doc__)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    machine = environment(args.device)
    rows = []
    for source in ('label', 'semantic'):
        for case in CASES if source == 'semantic' else GOALS:
            row = measure(source, case, args.device, args.repeats)
            rows.append(row)
            print(
                source,
                case,
                *(f'{k} {v:.3f}x' for k, v in row['ratio'].items()),
                flush=True,
            )
    write_json(args.out, dict(environment=machine, rows=rows))


if __name__ == '__main__':
    main()
