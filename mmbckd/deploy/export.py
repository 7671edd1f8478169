"""From a PyTorch model to an ONNX file that is known to agree with it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmdet.models import SingleStageDetector
from mmseg.models import EncoderDecoder
from numpy import ndarray
from torch import Tensor, nn

from .backends import INPUT, open_onnx
from .optional import require

KINDS = ('normalized', 'float32', 'uint8')
CHANNEL_ORDERS = ('bgr', 'rgb')
OUTPUTS = ('logits', 'labels')
# What mmdet's predict_by_feat calls them.
DETECTOR_OUTPUTS = ('cls_score', 'bbox_pred', 'score_factor')
# Values differ by float32's rounding only: the networks that were exported
# differ by less than 1e-5 of the largest value.
MAX_DIFFERENCE = 1e-3


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


class _FileFunction(nn.Module):
    """The function that an ONNX file computes."""

    def __init__(self, model: nn.Module, interface: Interface) -> None:
        super().__init__()
        self.model = model
        self.interface = interface
        self.normalization = Normalization.of(model.data_preprocessor)

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
        if output == 'labels':
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
    return (logits[:, 0].sigmoid() > model.decode_head.threshold).long()


def output_names(model: nn.Module, interface: Interface) -> list[str]:
    """The names of what comes out of a file."""
    if isinstance(model, EncoderDecoder):
        return [interface.output]
    with torch.no_grad():
        found = model._forward(torch.zeros(1, 3, 64, 64))
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


def export_onnx(
    model: nn.Module,
    file: str | Path,
    shape: tuple[int, int],
    interface: Interface | None = None,
    *,
    dynamic_batch: bool = False,
    opset: int = 18,
    dataset_meta: dict | None = None,
) -> None:
    """Write a model as one ONNX file of standard operators.

    Batch norms are folded into the convolutions before them, and nodes bear
    the names of the modules that they come from. What the file takes and
    gives, and the classes, are in its ``metadata_props`` as JSON. Whether it
    agrees with the model is for :func:`compare_onnx` to say.

    Args:
        model (nn.Module): An ``EncoderDecoder`` of mmseg, or a
            ``SingleStageDetector`` of mmdet, with its ``data_preprocessor``.
        file (str | Path): The file to write.
        shape (tuple[int, int]): Height and width of the images.
        interface (Interface, optional): What goes in and comes out.
            Defaults to None: normalized images, and logits.
        dynamic_batch (bool): Whether the file takes any number of images at
            a time, instead of one. Defaults to False.
        opset (int): Version of the operators, at least 17. Defaults to 18.
        dataset_meta (dict, optional): ``classes`` and ``palette`` to put into
            the file. Defaults to None.

    Raises:
        ImportError: If the optional packages are not installed.
        TypeError: If the model is of a kind that cannot be exported.
        ValueError: If it cannot take such images, or needs an operator that
            ONNX does not have.
    """
    onnx, _ = require('onnx', 'onnxscript')
    interface = interface or Interface()
    check_model(model)
    check_interface(interface)
    if opset < 17:
        raise ValueError(f'Expected `opset` to be 17 or more, but got {opset}')
    training = model.training
    function = _FileFunction(model, interface).eval()
    image = torch.rand(2 if dynamic_batch else 1, 3, *shape) * 255
    if interface.kind == 'uint8':
        image = image.byte()
    try:
        with torch.no_grad():
            function(image)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f'Expected images of a size that the model can take, but '
            f'{shape[0]}x{shape[1]} leads to: {error}. Choose a shape whose '
            'sides are multiples of the coarsest stride, usually 32.'
        ) from None
    names = output_names(model, interface)
    batch = torch.export.Dim('batch', min=1)
    try:
        with _quiet():
            torch.onnx.export(
                function,
                (image,),
                str(file),
                input_names=[INPUT],
                output_names=names,
                dynamic_shapes=({0: batch},) if dynamic_batch else None,
                opset_version=opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ValueError(
            'Expected a network of operators that ONNX has, but exporting '
            f'{type(model).__name__} ends with: {_cause(error)}. Its layers '
            'with operators of their own, to be replaced by others, are: '
            f'{", ".join(compiled_layers(model)) or "none that is known"}.'
        ) from None
    finally:
        model.train(training)
    proto = onnx.load(str(file))
    foreign = {n.domain for n in proto.graph.node} - {'', 'ai.onnx'}
    if foreign:
        Path(file).unlink()
        raise ValueError(
            'Expected standard operators only, but the file has some of '
            f'{sorted(foreign)}. Replace the layers that need them.'
        )
    name_nodes(proto)
    describe(proto, model, interface, dataset_meta or {})
    onnx.checker.check_model(proto)
    onnx.save(proto, str(file))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch's exporter says a lot that concerns its authors only."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)


def _cause(error: BaseException) -> str:
    """What an export failed of, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition('\n')[0] or type(error).__name__


def compiled_layers(model: nn.Module) -> list[str]:
    """The layers of mmcv that ONNX has no operators for, with their types."""
    return [
        f'{name} ({type(module).__name__})'
        for name, module in model.named_modules()
        if type(module).__module__.startswith('mmcv.ops')
    ]


def name_nodes(proto) -> None:
    """Name the nodes of a graph by the modules that they come from.

    A node with weights gets their module's name, ``decode_head.conv_seg``;
    any other that of its module and operator, ``neck/Resize``. Where several
    would have the same, those after the first get a number. What else the
    exporter has noted (source lines, paths on this machine) is removed.

    Args:
        proto (onnx.ModelProto): The graph, changed in place.
    """
    taken: dict[str, int] = {}
    for node in proto.graph.node:
        noted = {prop.key: prop.value for prop in node.metadata_props}
        weights = [
            match[1]
            for name in node.input
            if (match := re.fullmatch(r'model\.(.+)\.weight', name))
        ]
        scopes = re.findall(
            r"'model\.([^']+)'", noted.get('pkg.torch.onnx.name_scopes', '')
        )
        name = (
            weights[0] if weights else '/'.join([*scopes[-1:], node.op_type])
        )
        taken[name] = taken.get(name, 0) + 1
        if taken[name] > 1:
            name = f'{name}_{taken[name]}'
        node.name = name
        del node.metadata_props[:]
        node.doc_string = ''


def describe(
    proto,
    model: nn.Module,
    interface: Interface,
    dataset_meta: dict,
) -> None:
    """Note in a file what it takes and gives, as JSON in its metadata.

    Args:
        proto (onnx.ModelProto): The file, changed in place.
        model (nn.Module): The model it was made from.
        interface (Interface): What goes in and comes out.
        dataset_meta (dict): May have ``classes`` and ``palette``.
    """
    normalization = Normalization.of(model.data_preprocessor)
    order = interface.channel_order
    if interface.kind == 'normalized':
        order = normalization.channel_order
    image = dict(kind=interface.kind, channel_order=order)
    if normalization.mean is not None:
        image.update(mean=normalization.mean, std=normalization.std)
    output = {}
    if isinstance(model, EncoderDecoder):
        output = dict(
            kind=interface.output,
            num_classes=max(model.out_channels, 2),
            align_corners=model.align_corners,
            threshold=model.decode_head.threshold,
        )
    entries = dict(
        input=image,
        output=output,
        classes=dataset_meta.get('classes') or [],
        palette=dataset_meta.get('palette') or [],
        versions={
            name: version(name)
            for name in ('mmbckd', 'torch', 'onnx', 'onnxscript')
        },
    )
    del proto.metadata_props[:]
    for key, value in entries.items():
        proto.metadata_props.add(key=key, value=json.dumps(value))


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

    Returns:
        Comparison: How they differ.

    Raises:
        ValueError: If there are no images, or the model's own output has
            values that are not finite.
    """
    interface = interface or Interface()
    run = open_onnx(file)
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
        found = [torch.from_numpy(x) for x in run(given)]
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
