"""Images and test configs out of a config."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope
from numpy import ndarray
from torch import nn

from ..models.utils import student_config
from .comparison import normalize
from .interface import Interface


def _scope(config: Config):
    return DefaultScope.overwrite_default_scope(
        config.get('default_scope', 'mmengine')
    )


def test_pipeline(config: Config) -> list[dict]:
    """The pipeline of validation, without the truth.

    Raises:
        ValueError: If the config has no validation data.
    """
    dataset = (config.get('val_dataloader') or {}).get('dataset')
    while dataset is not None and 'pipeline' not in dataset:
        dataset = (
            dataset.get('dataset') or (dataset.get('datasets') or [None])[0]
        )
    if dataset is None:
        raise ValueError(
            'Expected a `val_dataloader` with a pipeline in the config, but '
            'there is none. Add the one that the student is validated with.'
        )
    return [
        copy.deepcopy(step)
        for step in dataset.pipeline
        if 'LoadAnnotations' not in step['type']
    ]


def build_dataset(config: Config, split: str) -> BaseDataset:
    """Data whose images come as in validation, without augmentation.

    Args:
        config (Config): The config.
        split (str): 'train' or 'val'.

    Returns:
        BaseDataset: The data.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If the config has none.
    """
    loader = config.get(f'{split}_dataloader') or {}
    if 'dataset' not in loader:
        raise ValueError(
            f'Expected a `{split}_dataloader` in the config, but there is '
            'none. Add the one that the student is '
            f'{"trained" if split == "train" else "validated"} with.'
        )
    dataset = copy.deepcopy(loader.dataset)
    _set_pipeline(dataset, test_pipeline(config))
    try:
        with _scope(config):
            built = DATASETS.build(dataset)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'Expected the data of `{split}_dataloader`, but it is not where '
            f'the config says ({error}). Run this where the student was '
            'trained, or correct `data_root` by --cfg-options.'
        ) from None
    if not len(built):
        raise ValueError(
            f'Expected images in the data of `{split}_dataloader`, but there '
            'is none. `mim run mmbckd check_data` says why.'
        )
    return built


def _set_pipeline(dataset: dict, pipeline: list[dict]) -> None:
    """Give a data set, and those that it wraps, another pipeline."""
    inner = [dataset.get('dataset'), *(dataset.get('datasets') or [])]
    inner = [part for part in inner if part is not None]
    for part in inner:
        _set_pipeline(part, pipeline)
    if not inner:
        dataset['pipeline'] = copy.deepcopy(pipeline)
    elif 'pipeline' in dataset:
        dataset['pipeline'] = []


def read_images(
    dataset: BaseDataset, count: int, shape: tuple[int, int] | None = None
) -> Iterator[ndarray]:
    """Images of a data set, evenly spaced.

    Args:
        dataset (BaseDataset): See :func:`build_dataset`.
        count (int): How many, or all if there are fewer.
        shape (tuple[int, int], optional): Height and width to resize them
            to. Defaults to None: as they come.

    Yields:
        ndarray: BGR images (H, W, 3) of 0 to 255, uint8.
    """
    picks = np.linspace(0, len(dataset) - 1, min(count, len(dataset)))
    for index in picks.astype(int).tolist():
        planes = dataset[index]['inputs']
        image = planes.numpy().transpose(1, 2, 0)
        if shape is not None and image.shape[:2] != tuple(shape):
            image = mmcv.imresize(image, (shape[1], shape[0]))
        yield image


def default_shape(config: Config, model: nn.Module) -> tuple[int, int]:
    """The size in which a model sees its validation images.

    Args:
        config (Config): Its config.
        model (nn.Module): The model.

    Returns:
        tuple[int, int]: Height and width of the windows that slide over the
        images or else of the first image, padded as ``data_preprocessor``
        does.
    """
    test_cfg = getattr(model, 'test_cfg', None) or {}
    if test_cfg.get('mode') == 'slide':
        return tuple(test_cfg['crop_size'])
    (image,) = read_images(build_dataset(config, 'val'), 1)
    planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return tuple(normalize(model, planes).shape[2:])


def onnx_config(
    config: Config,
    model: nn.Module,
    shape: tuple[int, int],
    interface: Interface,
) -> Config:
    """The config that tests an exported segmentor.

    Args:
        config (Config): The config of the student, or of a distillation.
        model (nn.Module): The segmentor.
        shape (tuple[int, int]): Height and width that the file takes.
        interface (Interface): What else it takes, and gives.

    Returns:
        Config: The same with an ``ONNXSegmentor`` as model, and with
        images of that size. Training is left out.

    Raises:
        ValueError: If windows slide over the images that are of another size.
    """
    test_cfg = copy.deepcopy(model.test_cfg)
    slides = test_cfg.get('mode') == 'slide'
    if slides and tuple(test_cfg['crop_size']) != tuple(shape):
        raise ValueError(
            'Expected a file of the size of the windows that slide over the '
            f'images, {tuple(test_cfg["crop_size"])} by `crop_size` of '
            f'`test_cfg`, but got {tuple(shape)}. Leave out --shape, or set '
            "`crop_size` and `stride`, or mode='whole'."
        )
    written = Config(copy.deepcopy(config._cfg_dict))
    preprocessor = copy.deepcopy(
        student_config(config).get('data_preprocessor')
        or config.data_preprocessor
    )
    if interface.kind != 'normalized':
        preprocessor.update(
            mean=None,
            std=None,
            bgr_to_rgb=interface.channel_order == 'rgb',
            rgb_to_bgr=False,
        )
    written.model = dict(
        type='ONNXSegmentor',
        data_preprocessor=preprocessor,
        test_cfg=test_cfg,
    )
    imports = dict(written.get('custom_imports') or {})
    names = imports.get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    written.custom_imports = dict(
        imports, imports=[*names, *({'mmbckd'} - set(names))]
    )
    for key in (
        'train_dataloader',
        'train_cfg',
        'optim_wrapper',
        'param_scheduler',
        'custom_hooks',
        'data_preprocessor',
    ):
        written.pop(key, None)
    if not slides:
        for key in ('val_dataloader', 'test_dataloader'):
            if written.get(key):
                _set_size(written[key].dataset, shape)
    return written


def _set_size(dataset: dict, shape: tuple[int, int]) -> None:
    """Have a data set resize its images to a shape, if it does not."""
    for part in [dataset.get('dataset'), *(dataset.get('datasets') or [])]:
        if part is not None:
            _set_size(part, shape)
    if 'pipeline' not in dataset:
        return
    resize = dict(type='Resize', scale=(shape[1], shape[0]), keep_ratio=False)
    pipeline = dataset['pipeline']
    kinds = [step['type'].rpartition('.')[2] for step in pipeline]
    if 'Resize' in kinds:
        pipeline[kinds.index('Resize')] = resize
    elif 'LoadImageFromFile' in kinds:
        pipeline.insert(kinds.index('LoadImageFromFile') + 1, resize)
