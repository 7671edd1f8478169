"""Resident memory over a long run of BCKD steps, with images of one shape and
with images whose shape changes from step to step.

Goal: flat. Compared are the means of the second and of the last tenth of the
steps; the first tenth warms the allocator up.
"""

import random
from pathlib import Path
from statistics import mean

import torch
from _measure import arguments, environment, resident_memory, write_json
from mmengine.config import Config
from mmengine.structures import PixelData
from mmrazor.registry import MODELS
from mmseg.structures import SegDataSample

import mmbckd  # noqa: F401

CONFIG = (
    Path(__file__).resolve().parents[1]
    / 'configs'
    / 'quickstart'
    / 'bckd_fpn_r18-w16_fpn_r18-w8_1xb8-400_street-scenes-128x256.py'
)
SHAPES = [(h, w) for h in (64, 96, 128) for w in (64, 96, 128, 160)]
EVERY = 20


def memory_over_steps(steps: int, shapes: list) -> list:
    """Bytes after every 20th step."""
    torch.manual_seed(0)
    shuffle = random.Random(0)
    model = MODELS.build(dict(Config.fromfile(CONFIG).model)).train()
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], 0.01
    )
    found = []
    for step in range(1, steps + 1):
        height, width = shuffle.choice(shapes)
        images = torch.randn(2, 3, height, width)
        samples = [
            SegDataSample(
                gt_sem_seg=PixelData(
                    data=torch.randint(11, (1, height, width))
                ),
                metainfo=dict(img_shape=(height, width)),
            )
            for _ in range(len(images))
        ]
        optimizer.zero_grad()
        loss, _ = model.parse_losses(model(images, samples, mode='loss'))
        loss.backward()
        optimizer.step()
        if step % EVERY == 0:
            found.append(resident_memory())
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument('--steps', type=int, default=2000)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    machine = environment()
    results = {}
    for name, shapes in (('one shape', [(128, 160)]), ('many shapes', SHAPES)):
        memory = memory_over_steps(args.steps, shapes)
        tenth = max(len(memory) // 10, 1)
        early, late = mean(memory[tenth : 2 * tenth]), mean(memory[-tenth:])
        results[name] = dict(
            early=early, late=late, growth=late / early - 1, memory=memory
        )
        print(f'{name}: {early / 1e6:.1f} MB, then {late / 1e6:.1f} MB')
    write_json(
        args.out,
        dict(environment=machine, steps=args.steps, every=EVERY, **results),
    )


if __name__ == '__main__':
    main()
