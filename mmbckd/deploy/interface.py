"""What goes into an ONNX file, and what comes out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from mmdet.models import SingleStageDetector
from mmseg.models import EncoderDecoder
from mmseg.models.decode_heads.ham_head import NMF2D
from torch import Tensor, nn

KINDS = ('normalized', 'float32', 'uint8')
CHANNEL_ORDERS = ('bgr', 'rgb')
OUTPUTS = ('logits', 'labels')
# What mmdet's predict_by_feat calls them.
DETECTOR_OUTPUTS = ('cls_score', 'bbox_pred', 'score_factor')


class Interface(NamedTuple):
    """What goes into an ONNX file, and what comes out.

    Attributes:
        kind (str): The image that goes in: 'normalized' by the model's mean
            and standard deviation, or with values 0 to 255 as 'float32' or
            'uint8', which the file then normalizes itself.
        channel_order (str): Of an image of 0 to 255, 'bgr' or 'rgb'. A
            normalized one has the order that the model was trained with.
        output (str): A segmentor's 'logits' (N, K, H, W) or 'labels'
            (N, H, W), both of the size of the image. A detector's raw maps
            are always given as they are.
    """

    kind: str = 'normalized'
    channel_order: str = 'bgr'
    output: str = 'logits'


class Normalization(NamedTuple):
    """What a ``data_preprocessor`` does to BGR images of 0 to 255.

    Attributes:
        channel_order (str): The order that it makes, 'bgr' or 'rgb'.
        mean (list[float], optional): None if it does not normalize.
        std (list[float], optional): None if it does not normalize.
    """

    channel_order: str
    mean: list[float] | None
    std: list[float] | None

    @classmethod
    def of(cls, preprocessor: nn.Module) -> Normalization:
        """Read it off mmseg's or mmdet's ``data_preprocessor``."""
        flips = getattr(
            preprocessor,
            'channel_conversion',
            getattr(preprocessor, '_channel_conversion', False),
        )
        mean = std = None
        if getattr(preprocessor, '_enable_normalize', False):
            mean, std = (
                value.flatten().tolist()
                for value in (preprocessor.mean, preprocessor.std)
            )
        return cls(CHANNEL_ORDERS[bool(flips)], mean, std)


class FileFunction(nn.Module):
    """The function that an ONNX file computes.

    The matrix decomposition in SegNeXt's head begins with new random bases at
    each call. A file cannot be compared with that: from here on the model
    itself keeps its first ones too.
    """

    def __init__(self, model: nn.Module, interface: Interface) -> None:
        super().__init__()
        self.model = model
        self.interface = interface
        self.normalization = Normalization.of(model.data_preprocessor)
        for module in model.modules():
            if isinstance(module, NMF2D):
                module.rand_init = False

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        kind, channel_order, output = self.interface
        if kind != 'normalized':
            image = image.float()
            wanted, mean, std = self.normalization
            if channel_order != wanted:
                image = image.flip(1)
            if mean is not None:
                image = (image - image.new_tensor(mean).view(-1, 1, 1)) / (
                    image.new_tensor(std).view(-1, 1, 1)
                )
        maps = raw_maps(self.model, image)
        if output == 'labels' and isinstance(self.model, EncoderDecoder):
            return label_maps(self.model, maps[0]).int()
        return maps


def raw_maps(model: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
    """What a model computes before any decision is taken.

    Args:
        model (nn.Module): A segmentor, or a detector of one stage.
        image (Tensor): Normalized images, (N, 3, H, W).

    Returns:
        tuple[Tensor]: The logits (N, K, H, W) of a segmentor; the class
        scores, then the boxes and whatever else the head predicts, each from
        the finest level to the coarsest, of a detector.
    """
    if isinstance(model, EncoderDecoder):
        shape = tuple(image.shape[2:])
        meta = dict(img_shape=shape, pad_shape=shape, ori_shape=shape)
        return (model.encode_decode(image, [meta]),)
    return tuple(x for levels in model._forward(image) for x in levels)


def label_maps(model: nn.Module, logits: Tensor) -> Tensor:
    """A segmentor's classes, as mmseg's ``postprocess_result`` takes them.

    Args:
        model (nn.Module): The segmentor.
        logits (Tensor): Its logits, (N, K, H, W).

    Returns:
        Tensor: (N, H, W), int64.
    """
    if logits.shape[1] > 1:
        return logits.argmax(1)
    return (logits[:, 0].sigmoid() > threshold_of(model)).long()


def threshold_of(model: nn.Module) -> float | None:
    """The probability from which logits of one channel are the class 1.

    Args:
        model (nn.Module): A segmentor.

    Returns:
        float, optional: None if it has logits of several channels.
    """
    head = model.decode_head
    if isinstance(head, nn.ModuleList):  # a cascade, whose last one counts
        head = head[-1]
    return head.threshold


def output_names(model: nn.Module, interface: Interface) -> list[str]:
    """The names of what comes out of a file."""
    if isinstance(model, EncoderDecoder):
        return [interface.output]
    with torch.no_grad():
        found = model._forward(torch.zeros(1, 3, 64, 64))
    if len(found) > len(DETECTOR_OUTPUTS) or any(
        isinstance(maps, Tensor) for maps in found
    ):
        raise TypeError(
            'Expected a detector that predicts '
            f'{", ".join(DETECTOR_OUTPUTS)} on each level and no more, but '
            f'{type(model.bbox_head).__name__} gives something else besides, '
            'such as what masks are made of. Export a model of another kind, '
            'or keep PyTorch for this one.'
        )
    return [
        f'{name}_{level}'
        for name, maps in zip(DETECTOR_OUTPUTS, found)
        for level in range(len(maps))
    ]


def check_model(model: nn.Module) -> None:
    """Check that a model can be exported.

    Args:
        model (nn.Module): The model.

    Raises:
        TypeError: If it is of a kind that has no fixed raw maps.
    """
    if not isinstance(model, (EncoderDecoder, SingleStageDetector)):
        raise TypeError(
            'Expected a segmentor (EncoderDecoder) or a detector of one '
            'stage (such as RetinaNet, FCOS and GFL), but got '
            f'{type(model).__name__}: between its two stages, or between its '
            'boxes and its masks, it computes with as many objects as it '
            'finds, which no ONNX file of fixed shapes can hold. Export a '
            'model of another kind, or keep PyTorch for this one.'
        )


def check_interface(interface: Interface) -> None:
    """Check the values of an interface.

    Args:
        interface (Interface): The interface.

    Raises:
        ValueError: If one is unknown.
    """
    for (name, value), known in zip(
        interface._asdict().items(), (KINDS, CHANNEL_ORDERS, OUTPUTS)
    ):
        if value not in known:
            raise ValueError(
                f'Expected `{name}` to be one of {known}, but got {value!r}.'
            )
