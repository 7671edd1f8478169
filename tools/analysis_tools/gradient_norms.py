"""Say how large the gradient of each loss is in the student's backbone, or in
another module of it.

The weight of a distillation loss is right or wrong by this: what is a
hundredth of the task's gradient changes nothing, what is many times as large
drowns it. The model learns nothing here: the batches meet the weights as they
are.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner

from mmbckd.analysis.formatting import markdown_table


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config of a distillation')
    parser.add_argument(
        '--checkpoint',
        help='iter_*.pth of its training, or of the student alone (default: '
        'the weights it begins with)',
    )
    parser.add_argument(
        '--module',
        default='backbone',
        help='the part of the student to look at, such as neck (default: '
        'backbone)',
    )
    parser.add_argument('--batches', type=int, default=10, help='default: 10')
    parser.add_argument('--out', help='JSON file to write')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args()


def load(model: BaseModel, path: str) -> None:
    """Load a checkpoint of a distillation, or of its student alone."""
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    state_dict = checkpoint.get('state_dict', checkpoint)
    if not any(key.startswith('architecture.') for key in state_dict):
        model = getattr(model, 'architecture', model)
    missing, unexpected = model.load_state_dict(state_dict, strict=False)
    missing = [key for key in missing if not key.startswith('teacher.')]
    if missing or unexpected:
        raise ValueError(
            f'Expected the weights of the config or of its student in {path}, '
            f'but {len(missing)} are missing, such as {missing[:3]}, and '
            f'{len(unexpected)} are of another model, such as '
            f'{unexpected[:3]}. Name the config that it was trained with.'
        )


def gradients(
    model: BaseModel, data: dict, module: str = 'backbone'
) -> dict[str, torch.Tensor]:
    """The gradient of the task, and of each loss of distillation, in all
    parameters of a module of the student."""
    student = getattr(model, 'architecture', model)
    try:
        part = student.get_submodule(module)
    except AttributeError:
        raise ValueError(
            f'Expected a module of the student ({type(student).__name__}), '
            f'but got {module!r}; its top modules are '
            f'{[name for name, _ in student.named_children()]}.'
        ) from None
    parameters = [p for p in part.parameters() if p.requires_grad]
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    parts: dict[str, dict] = {}
    for name, value in losses.items():
        part = name if name.startswith('distill.') else 'task'
        parts.setdefault(part, {})[name] = value
    found = {}
    for part, values in parts.items():
        found[part] = torch.cat(
            [
                torch.zeros_like(p).flatten() if g is None else g.flatten()
                for p, g in zip(
                    parameters,
                    torch.autograd.grad(
                        model.parse_losses(values)[0],
                        parameters,
                        retain_graph=True,
                        allow_unused=True,
                    ),
                )
            ]
        )
    return found


def measure(
    model: BaseModel, batches: Iterable[dict], module: str = 'backbone'
) -> dict[str, dict]:
    """Means over batches, by loss: the norm of the gradient, its ratio to
    the task's, and the cosine of the angle to that."""
    rows: dict[str, list[dict]] = {}
    for data in batches:
        found = gradients(model, data, module)
        task = found['task']
        for name, gradient in found.items():
            rows.setdefault(name, []).append(
                dict(
                    norm=gradient.norm(),
                    ratio=gradient.norm() / task.norm(),
                    cosine=torch.cosine_similarity(gradient, task, dim=0),
                )
            )
    return {
        name: {
            key: torch.stack([row[key] for row in found]).mean().item()
            for key in found[0]
        }
        for name, found in rows.items()
    }


def table(found: dict) -> list[str]:
    """What was found, in Markdown."""
    return markdown_table(
        ['gradient of', 'norm', 'to the task', 'cosine to the task'],
        [
            [
                name,
                f'{row["norm"]:.3g}',
                f'{row["ratio"]:.1%}',
                f'{row["cosine"]:+.2f}',
            ]
            for name, row in found['losses'].items()
        ],
    )


def main() -> None:
    args = parse_args()
    config = Config.fromfile(args.config)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    with tempfile.TemporaryDirectory() as work_dir:
        config.work_dir = work_dir
        runner = Runner.from_cfg(config)
        runner.model.init_weights()
        if args.checkpoint:
            load(runner.model, args.checkpoint)
        runner.model.train()
        loader = runner.build_dataloader(config.train_dataloader, runner.seed)
        rows = measure(runner.model, islice(loader, args.batches), args.module)
    found = dict(
        config=Path(args.config).stem,
        checkpoint=args.checkpoint and Path(args.checkpoint).name,
        batches=args.batches,
        module=args.module,
        losses=rows,
    )
    print('\n'.join(table(found)))
    if args.out:
        Path(args.out).write_text(json.dumps(found, indent=2) + '\n')


if __name__ == '__main__':
    main()
