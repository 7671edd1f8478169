"""Where a segmentor or detector has feature maps, read off a blank image."""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from mmdet.models.detectors import BaseDetector
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmseg.models import BaseSegmentor
from torch import Tensor, nn

# Sides of the blank image, before the backbone's own `img_size`. Some heads
# pool by kernels that are larger than the maps of a small one.
SIDES = (128, 512)


class FeatureMap(NamedTuple):
    """A feature map of a model.

    Attributes:
        channels (int): Its channels.
        stride (int): Pixels of the image to one of the map.
    """

    channels: int
    stride: int

    @classmethod
    def of(cls, feature: Tensor, side: int) -> 'FeatureMap':
        """The description of a map (N, C, H, W) of a square image."""
        return cls(feature.shape[1], round(side / feature.shape[2]))


class Stages(NamedTuple):
    """The feature maps that distillation can compare.

    Where there are none, ``problems`` says what was found instead.

    Attributes:
        backbone (list[FeatureMap]): What the backbone puts out.
        neck (list[FeatureMap]): What the neck puts out.
        classifier (str): A segmentor's last convolution: its name, or ''.
        features (list[FeatureMap]): What the classifier takes in.
        logits (list[FeatureMap]): What the classifier puts out.
        problems (dict[str, str]): By the name of a field that is empty.
    """

    backbone: list[FeatureMap]
    neck: list[FeatureMap]
    classifier: str
    features: list[FeatureMap]
    logits: list[FeatureMap]
    problems: dict[str, str]

    def rows(self) -> list[tuple]:
        """Module, stride and channels of each map."""
        places = dict(
            backbone=self.backbone,
            neck=self.neck,
            **{
                f'{self.classifier}, input': self.features,
                f'{self.classifier}, output': self.logits,
            },
        )
        return [
            (
                f'{place}[{i}]' if len(maps) > 1 else place,
                feature.stride,
                feature.channels,
            )
            for place, maps in places.items()
            for i, feature in enumerate(maps)
        ]


def read_stages(model: BaseModel, training: bool = False) -> Stages:
    """Run a model on a blank image and describe its feature maps.

    Args:
        model (BaseModel): A segmentor of mmseg or a detector of mmdet, on the
            CPU. Its batch norms count the blank image if ``training``.
        training (bool): Whether backbone and neck run as in training; some
            put out more maps then. Defaults to False.

    Returns:
        Stages: The maps.

    Raises:
        ValueError: If the model is neither.
    """
    if not isinstance(model, (BaseSegmentor, BaseDetector)):
        raise ValueError(
            'Expected a segmentor of MMSegmentation or a detector of '
            f'MMDetection, but got {type(model).__name__}.'
        )
    model = revert_sync_batchnorm(model)
    # Positions of some vision transformers fit one size only.
    own = getattr(getattr(model, 'backbone', None), 'img_size', ())
    own = own[:1] if isinstance(own, (list, tuple)) else (own,)
    # An image need not have the channels of the first convolution: that of
    # YOLOX takes those of neighboring pixels.
    convs = (m for m in model.modules() if isinstance(m, nn.Conv2d))
    first = next((conv.in_channels for conv in convs), 3)
    images = product((first, 3), (*SIDES, *own))
    for channels, side in dict.fromkeys(images):
        stages = _read(model, training, channels, side)
        if stages.backbone and (stages.classifier or not _classifiers(model)):
            break
    return stages


def _read(
    model: BaseModel, training: bool, channels: int, side: int
) -> Stages:
    model.train(training)
    # Batch norms cannot be trained on a single image.
    images = torch.zeros(2, channels, side, side)
    problems: dict[str, str] = {}
    parts = {'backbone': [], 'neck': []}
    outputs, failure = _outputs(
        model, list(parts), lambda: model.extract_feat(images)
    )
    for part in parts:
        if part in outputs:
            _, feature = outputs[part][-1]
            parts[part] = _maps(feature, side)
            if not parts[part]:
                problems[part] = f'it puts out {_described(feature)}'
        elif getattr(model, part, None) is None:
            problems[part] = f'{type(model).__name__} has none'
        else:
            problems[part] = failure or 'it did not run'

    classifier, features, logits = '', [], []
    heads = _classifiers(model)
    if heads:
        model.eval()
        size = (side, side)
        meta = dict(img_shape=size, ori_shape=size, pad_shape=size)
        outputs, failure = _outputs(
            model, heads, lambda: model.encode_decode(images, [meta] * 2)
        )
        ran = [name for name in heads if name in outputs]
        if ran:
            classifier = ran[-1]
            inputs, output = outputs[classifier][-1]
            features, logits = _maps(inputs[0], side), _maps(output, side)
        else:
            problems['classifier'] = f'{" and ".join(heads)} did not run' + (
                f' ({failure})' if failure else ''
            )
    elif isinstance(model, BaseSegmentor):
        head = type(getattr(model, 'decode_head', None)).__name__
        problems['classifier'] = f'its {head} has no `conv_seg`'
    return Stages(
        **parts,
        classifier=classifier,
        features=features,
        logits=logits,
        problems=problems,
    )


def _classifiers(model: BaseModel) -> list[str]:
    """Names of the last convolutions of the heads, those that decide last."""
    heads = getattr(model, 'decode_head', None)
    names = (
        [f'decode_head.{i}.conv_seg' for i in range(len(heads))]
        if isinstance(heads, nn.ModuleList)
        else ['decode_head.conv_seg']
    )
    modules = dict(model.named_modules())
    return [name for name in names if name in modules]


def _outputs(model: nn.Module, names: Sequence[str], run) -> tuple:
    """What modules take in and put out, call by call, and why ``run`` failed.

    It may: what comes after these modules need not work on a blank image.
    """
    calls: dict[str, list] = {}
    modules = dict(model.named_modules())
    hooks = [
        modules[name].register_forward_hook(
            lambda _, inputs, output, name=name: calls.setdefault(
                name, []
            ).append((inputs, output))
        )
        for name in names
        if name in modules
    ]
    failure = ''
    try:
        with torch.no_grad():
            run()
    except Exception as error:
        failure = f'{type(error).__name__}: {error}'
    finally:
        for hook in hooks:
            hook.remove()
    return calls, failure


def _maps(feature: Any, side: int) -> list[FeatureMap]:
    """Descriptions of one map or several; none if anything is not a map."""
    features = [feature] if isinstance(feature, Tensor) else feature
    if not isinstance(features, (list, tuple)) or not all(
        isinstance(f, Tensor) and f.ndim == 4 for f in features
    ):
        return []
    return [FeatureMap.of(f, side) for f in features]


def _described(feature: Any) -> str:
    """The shapes of what is no feature map, for a message."""
    if isinstance(feature, Tensor):
        return f'a tensor of shape {tuple(feature.shape)}'
    if isinstance(feature, (list, tuple)):
        return ', '.join(map(_described, feature)) or 'nothing'
    return type(feature).__name__
