"""What a plain model costs: parameters, FLOPs, latency."""

from __future__ import annotations

import copy
import logging
import platform
import re
from functools import partial
from pathlib import Path

import torch
from mmdet.models.detectors.single_stage_instance_seg import (
    SingleStageInstanceSegmentor,
)
from mmdet.structures import DetDataSample
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmseg.models import BaseSegmentor
from mmseg.structures import SegDataSample
from torch.utils.benchmark import Timer

from ..models.algorithms.frozen_teacher_distill import head_with_samples
from ..models.utils import build_model


def model_cost(
    config: Config,
    input_size: tuple[int, int],
    seconds: float = 0,
    device: str = 'cpu',
) -> dict:
    """Parameters and FLOPs of a plain model and, if asked for, its latency.

    Auxiliary heads, which only training needs, are left out. A forward pass
    is what the model does in the mode 'tensor', for one image.

    Args:
        config (Config): A config of mmseg or mmdet without distillation.
        input_size (tuple[int, int]): Height and width of the image.
        seconds (float): For how long to time forward passes; of 0 there is
            no ``latency``. Defaults to 0.
        device (str): Where to time them. Defaults to 'cpu'.

    Returns:
        dict: ``parameters``, ``flops`` (multiply-adds, as mmengine counts
        them) and ``latency``, the median in seconds. FLOPs are left out for
        models with deformable convolutions, which mmengine does not count;
        FLOPs and latency for those whose forward pass needs the truth
        (CondInst's).
    """
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = _build(config)
        cost = dict(parameters=sum(p.numel() for p in model.parameters()))
        if isinstance(model, SingleStageInstanceSegmentor) and model.with_bbox:
            return cost
        image = torch.randn(1, 3, *input_size)
        _bind_sample(model, input_size)
        if not any('DeformConv' in type(m).__name__ for m in model.modules()):
            cost['flops'] = _flops(model, image)
        if seconds:
            cost['latency'] = _latency(
                model.to(device), image.to(device), seconds
            )
    return cost


def machine(device: str = 'cpu') -> str:
    """The name of the GPU, or of the CPU with its number of threads."""
    if torch.device(device).type == 'cuda':
        return torch.cuda.get_device_name(device)
    cpuinfo = Path('/proc/cpuinfo')
    found = re.search(
        r'model name\s*: (.*)', cpuinfo.read_text() if cpuinfo.exists() else ''
    )
    name = found[1] if found else platform.processor() or platform.machine()
    return f'{name}, {torch.get_num_threads()} threads'


def _build(config: Config) -> BaseModel:
    model = build_model(
        copy.deepcopy(config.model), config.get('data_preprocessor')
    )
    if isinstance(model, BaseSegmentor):
        model.auxiliary_head = None
    return revert_sync_batchnorm(model).eval()


def _bind_sample(model: BaseModel, size: tuple[int, int]) -> None:
    """Let the model be called with nothing but an image."""
    sample = (
        SegDataSample()
        if isinstance(model, BaseSegmentor)
        else DetDataSample()
    )
    sample.set_metainfo(
        dict(
            ori_shape=size,
            img_shape=size,
            pad_shape=size,
            batch_input_shape=size,
            scale_factor=(1.0, 1.0),
        )
    )
    model.forward = partial(model.forward, data_samples=[sample])
    # Heads that classify masks want it as well, and mmseg does not pass it on.
    if head_with_samples(model) == 'decode_head':
        head = model.decode_head
        head.forward = partial(head.forward, batch_data_samples=[sample])


def _flops(model: BaseModel, image: torch.Tensor) -> int:
    # It names every operator that it does not count.
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.no_grad():
            return int(
                get_model_complexity_info(
                    model, inputs=(image,), show_table=False, show_arch=False
                )['flops']
            )
    finally:
        logger.setLevel(level)


@torch.inference_mode()
def _latency(model: BaseModel, image: torch.Tensor, seconds: float) -> float:
    timer = Timer(
        'model(image)',
        globals=dict(model=model, image=image),
        num_threads=torch.get_num_threads(),
    )
    return timer.blocked_autorange(min_run_time=seconds).median
