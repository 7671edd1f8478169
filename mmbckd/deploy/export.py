"""From a PyTorch model to an ONNX file."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from mmengine.utils import digit_version
from mmseg.models import EncoderDecoder
from torch import nn

from .backends import INPUT
from .interface import (
    FileFunction,
    Interface,
    Normalization,
    check_interface,
    check_model,
    output_names,
    threshold_of,
)
from .optional import require


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
        RuntimeError: If this is a PyTorch before 2.7.
        TypeError: If the model is of a kind that cannot be exported.
        ValueError: If it cannot take such images, or needs an operator that
            ONNX does not have.
    """
    onnx, _ = require('onnx', 'onnxscript')
    if digit_version(torch.__version__) < digit_version('2.7'):
        raise RuntimeError(
            'Expected PyTorch 2.7 or later to write ONNX files, but this is '
            f'{torch.__version__}: take the checkpoint to an environment '
            'with a later one, it loads there as it is.'
        )
    interface = interface or Interface()
    check_model(model)
    check_interface(interface)
    if opset < 17:
        raise ValueError(f'Expected `opset` to be 17 or more, but got {opset}')
    training = model.training
    function = FileFunction(model, interface).eval()
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
    Path(file).unlink()  # it is not complete
    (version,) = (o.version for o in proto.opset_import if not o.domain)
    if version != opset:
        raise ValueError(
            f'Expected an `opset` that PyTorch {torch.__version__} can write, '
            f'but got {opset}. Take {version}.'
        )
    foreign = {n.domain for n in proto.graph.node} - {'', 'ai.onnx'}
    if foreign:
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
            threshold=threshold_of(model),
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
