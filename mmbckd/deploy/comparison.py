"""Whether an ONNX file computes what a model does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmseg.models import EncoderDecoder
from numpy import ndarray
from torch import Tensor, nn

from .backends import INPUT, open_session
from .interface import Interface, label_maps, raw_maps

# Values differ by float32's rounding only: the networks that were exported
# differ by less than 1e-5 of the largest value.
MAX_DIFFERENCE = 1e-3


class Comparison(NamedTuple):
    """How an ONNX file and the PyTorch model differ.

    Attributes:
        images (int): On how many images.
        max_difference (float): The largest difference of two values, as a
            share of the largest value; 0 for label maps.
        agreement (float, optional): The pixels with the same label, in
            percent; None for a detector.
    """

    images: int
    max_difference: float
    agreement: float | None

    def __str__(self) -> str:
        text = (
            f'largest difference {self.max_difference:.1e} of the largest '
            f'value on {self.images} images'
        )
        if self.agreement is not None:
            text += f', {self.agreement:.3f}% of the labels equal'
        return text


def file_images(
    model: nn.Module, images: Iterable[ndarray], interface: Interface
) -> Iterator[tuple[ndarray, Tensor]]:
    """Images as a file takes them, and as the model does.

    Args:
        model (nn.Module): The model, with its ``data_preprocessor``.
        images (Iterable[ndarray]): BGR images (H, W, 3) of 0 to 255, uint8.
        interface (Interface): What the file takes.

    Yields:
        tuple[ndarray, Tensor]: (1, 3, H, W) each: the file's and the model's.

    Raises:
        ValueError: If the model's ``data_preprocessor`` changes the size.
    """
    device = next(model.parameters()).device
    for image in images:
        planes = torch.from_numpy(
            np.ascontiguousarray(image.transpose(2, 0, 1))
        )
        normalized = normalize(model, planes).to(device)
        if normalized.shape[2:] != planes.shape[1:]:
            raise ValueError(
                'Expected a shape that needs no padding, but '
                f'{"x".join(map(str, planes.shape[1:]))} is padded to '
                f'{"x".join(map(str, normalized.shape[2:]))} by the '
                "model's `data_preprocessor`. Name that shape."
            )
        given = normalized.cpu().numpy()
        if interface.kind != 'normalized':
            given = planes.numpy()[None].astype(interface.kind)
            if interface.channel_order == 'rgb':
                given = np.ascontiguousarray(given[:, ::-1])
        yield given, normalized


def normalize(model: nn.Module, planes: Tensor) -> Tensor:
    """Take an image through the model's own ``data_preprocessor``.

    Args:
        model (nn.Module): The model.
        planes (Tensor): A BGR image (3, H, W) of 0 to 255.

    Returns:
        Tensor: What the model sees in validation, (1, 3, H', W').
    """
    if isinstance(model, EncoderDecoder):
        from mmseg.structures import SegDataSample as DataSample
    else:
        from mmdet.structures import DetDataSample as DataSample
    shape = tuple(planes.shape[1:])
    sample = DataSample(metainfo=dict(img_shape=shape, ori_shape=shape))
    data = dict(inputs=[planes], data_samples=[sample])
    return model.data_preprocessor(data, False)['inputs']


@torch.no_grad()
def compare_onnx(
    file: str | Path,
    model: nn.Module,
    images: Iterable[ndarray],
    interface: Interface | None = None,
    exact_sums: bool = False,
) -> Comparison:
    """Compare an ONNX file with the model that it was made from.

    The model gets the images by way of its own ``data_preprocessor``, so that
    a normalization inside the file is compared too.

    Args:
        file (str | Path): The ONNX file.
        model (nn.Module): The model, in eval mode.
        images (Iterable[ndarray]): BGR images (H, W, 3) of 0 to 255, uint8,
            of the file's shape.
        interface (Interface, optional): The file's. Defaults to None:
            normalized images, and logits.
        exact_sums (bool): Whether sums of integers are computed as on a chip,
            see :func:`~.backends.open_session`. Defaults to False.

    Returns:
        Comparison: How they differ.

    Raises:
        ValueError: If there are no images, or the model's own output has
            values that are not finite.
    """
    interface = interface or Interface()
    session = open_session(file, exact_sums)
    count, equal, pixels, difference, largest = 0, 0, 0, 0.0, 0.0
    for given, normalized in file_images(model, images, interface):
        count += 1
        truth = raw_maps(model, normalized)
        if not all(x.isfinite().all() for x in truth):
            raise ValueError(
                'Expected finite output, but the PyTorch model gives NaN or '
                'infinity on an image. Its checkpoint is of no use: take an '
                'earlier one.'
            )
        found = [
            torch.from_numpy(x) for x in session.run(None, {INPUT: given})
        ]
        if isinstance(model, EncoderDecoder):
            labels = label_maps(model, truth[0])
            got = found[0]
            if interface.output == 'logits':
                got = label_maps(model, got)
            equal += int((got == labels).sum())
            pixels += labels.numel()
        if interface.output == 'logits' or not pixels:
            for ours, theirs in zip(truth, found):
                # A NaN counts as infinitely far.
                gap = (ours - theirs).abs().nan_to_num(nan=np.inf)
                difference = max(difference, gap.max().item())
                largest = max(largest, ours.abs().max().item())
    if not count:
        raise ValueError('Expected images to compare on, but there are none.')
    return Comparison(
        count,
        difference / max(largest, np.finfo(np.float32).tiny),
        100 * equal / pixels if pixels else None,
    )
