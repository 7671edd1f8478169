"""What a training's config says about its cost."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import BaseModel
from mmseg.models import BaseSegmentor

from ...models.utils import STUDENT, read_model

#: Images with an annotation, of which an epoch consists.
EPOCHS = dict(CocoDataset=117266)


def cost_key(
    config: Config,
    batch_size: int = 2,
    size: tuple[int, int] | None = None,
    images: int | None = None,
) -> str:
    """What the cost of a training depends on, as 16 hexadecimal digits.

    Two configs with the same key cost the same: they may differ in where data
    and checkpoints lie, in the weights of losses, in what is evaluated, and
    in the optimizer.

    Args:
        config (Config): The config of a training.
        batch_size (int): As of :func:`step_cost`. Defaults to 2.
        size (tuple[int, int] | None): As of :func:`step_cost`. Defaults to
            None.
        images (int | None): As of :func:`step_cost`. Defaults to None.

    Returns:
        str: The beginning of a SHA-256.

    Raises:
        ValueError: If the config trains nothing.
    """
    loader = config.get('train_dataloader') or {}
    content = dict(
        model=_without_weights(model_config(config)),
        scope=config.get('default_scope'),
        data_preprocessor=config.get('data_preprocessor'),
        gpus=gpus_of(config),
        batch_size=loader.get('batch_size'),
        dataset=_types(loader.get('dataset') or {}),
        transforms=list(_transforms(loader.get('dataset') or {})),
        length={
            key: config.train_cfg.get(key)
            for key in ('max_iters', 'max_epochs')
        },
        run=[batch_size, size, images],
    )
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def training_size(config: Config, model: BaseModel) -> tuple[int, int]:
    """Height and width of the images that a config trains on.

    Args:
        config (Config): The config of a training.
        model (BaseModel): Its student.

    Returns:
        tuple[int, int]: For a segmentor the size that its data preprocessor
        pads to. For a detector that of the last transform that resizes,
        crops to pixels or pads, the largest where it chooses, and of an image
        wider than high.

    Raises:
        ValueError: If the config does not say.
    """
    if isinstance(model, BaseSegmentor):
        found = model.data_preprocessor.size
    else:
        found = None
        for transform in _transforms(config.train_dataloader.dataset):
            found = _size_after(transform) or found
    if found is None:
        raise ValueError(
            'Expected a config that trains on images of one size, but it '
            'says none in its data preprocessor or transforms. Set `size` '
            '(--size).'
        )
    return tuple(found)


def length_of(
    config: Config, whole_batch: int, images: int | None
) -> tuple[int, int]:
    """Iterations of a training, and the images it sees."""
    loop = config.train_cfg
    if 'max_iters' in loop:
        return loop.max_iters, loop.max_iters * whole_batch
    dataset = config.train_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    images = images or EPOCHS.get(dataset.type.rpartition('.')[2])
    if images is None:
        raise ValueError(
            f'Expected to know how many images an epoch of {dataset.type} '
            'has, but do not. Set `images` (--images).'
        )
    seen = loop.max_epochs * images
    return seen // whole_batch, seen


def gpus_of(config: Config) -> int:
    """Of the config's name, such as 4xb2; else of the whole batch that its
    rate is meant for; else one."""
    named = re.search(r'_(\d+)xb\d+', Path(config.filename or '').stem)
    if named:
        return int(named[1])
    whole = config.get('auto_scale_lr', {}).get('base_batch_size')
    return max(1, (whole or 0) // config.train_dataloader.batch_size)


def has_masks(config: Config) -> bool:
    """Whether a detector is given masks to train on."""
    return any(
        transform.get('with_mask')
        for transform in _transforms(config.train_dataloader.dataset)
    )


def model_config(config: Config) -> dict:
    """The model of a training, with student and teacher written out."""
    missing = [
        key
        for key in ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
        if not config.get(key)
    ]
    if missing:
        raise ValueError(
            'Expected the config of a training, but got '
            f'{config.filename or "one"} without {missing}. Name the config '
            'that is given to `mim train`.'
        )
    model = copy.deepcopy(config.model)
    for side in (STUDENT, 'teacher'):
        if isinstance(model.get(side), str):
            model[side] = read_model(model[side])
    return model


def _without_weights(node: Any) -> Any:
    """A part of a model's config without initial weights, and those of
    losses."""
    if isinstance(node, dict):
        ignored = (
            'teacher_ckpt',
            'pretrained',
            'init_cfg',
            'loss_weight',
            'warmup',
        )
        return {
            key: _without_weights(child)
            for key, child in node.items()
            if key not in ignored
        }
    if isinstance(node, (list, tuple)):
        return [_without_weights(child) for child in node]
    return node


def _types(dataset: dict) -> list[str]:
    """The type of a data set, and of those that it wraps."""
    inner = dataset.get('datasets', [dataset.get('dataset')])
    return [
        str(dataset.get('type')),
        *(name for each in inner if each for name in _types(each)),
    ]


def _transforms(dataset: dict) -> Iterator[dict]:
    """The transforms of a data set, of those that it wraps first."""
    for inner in dataset.get('datasets', [dataset.get('dataset')]):
        if inner is not None:
            yield from _transforms(inner)
    for transform in dataset.get('pipeline', ()):
        yield transform
        for branch in transform.get('transforms', ()):
            yield from [branch] if isinstance(branch, dict) else branch


def _size_after(transform: dict) -> tuple[int, int] | None:
    """Height and width that a transform of mmdet makes; None if any."""
    if transform['type'].endswith('RandomCrop'):
        absolute = transform.get('crop_type', 'absolute') == 'absolute'
        sides = transform['crop_size'] if absolute else None
    else:
        sides = transform.get('size') or transform.get('scale')
        sides = sides or transform.get('scales')
    if sides is None:
        return None
    if not isinstance(sides[0], int):
        sides = max(sides, key=lambda each: each[0] * each[1])
    # mmdet's are width and height, or the long side and the short one.
    return min(sides), max(sides)
