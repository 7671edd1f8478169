"""From a fake-quantized model to an INT8 file with its very scales."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .export import export_onnx
from .interface import Interface
from .optional import require

if TYPE_CHECKING:
    from ..models.quantization import FakeQuantization


def export_qdq(
    quantization: FakeQuantization,
    file: str | Path,
    shape: tuple[int, int],
    interface: Interface | None = None,
    **kwargs,
) -> None:
    """Write a fake-quantized model as an INT8 file of standard operators.

    Fake quantization becomes pairs of QuantizeLinear and DequantizeLinear
    (QDQ) with the scales that were learned, and the weights are stored as
    the integers that they were rounded to (in 8 bits each, whatever
    ``weight_bits`` is). So are biases, in 32 bits, unless activations are
    'int8': TensorRT takes rounded biases in float only.

    Args:
        quantization (FakeQuantization): That of the model, calibrated.
        file (str | Path): The file to write.
        shape (tuple[int, int]): Height and width of the images.
        interface (Interface, optional): See :func:`export_onnx`.
        kwargs: See :func:`export_onnx`.

    Raises:
        ImportError: If the optional packages are not installed.
        ValueError: If the quantization is not calibrated, or see
            :func:`export_onnx`.
    """
    (onnx,) = require('onnx')
    if not quantization.calibrated:
        raise ValueError(
            'Expected a quantization with calibrated ranges, but it has '
            'none. Name a checkpoint of a quantization-aware training.'
        )
    with quantization.mode('trace'):
        export_onnx(quantization.model, file, shape, interface, **kwargs)
    proto = onnx.load(str(file))
    fold_identity_norms(proto)
    store_integers(proto)
    if not quantization.signed:
        store_integer_biases(proto)
    quantize_before_clips(proto)
    onnx.checker.check_model(proto)
    onnx.save(proto, str(file))


def fold_identity_norms(proto) -> None:
    """Move the bias of batch norms with a scale of 1 into the layer before.

    Args:
        proto (onnx.ModelProto): The graph, changed in place.
    """
    from onnx import numpy_helper

    values = {x.name: x for x in proto.graph.initializer}
    givers = {out: n for n in proto.graph.node for out in n.output}
    for norm in list(proto.graph.node):
        layer = givers.get(norm.input[0]) if norm.input else None
        if (
            norm.op_type != 'BatchNormalization'
            or layer is None
            or layer.op_type not in ('Conv', 'ConvTranspose')
        ):
            continue
        weight, bias, mean, variance = (
            numpy_helper.to_array(values[name]) for name in norm.input[1:5]
        )
        epsilon = next(
            (a.f for a in norm.attribute if a.name == 'epsilon'), 1e-5
        )
        gain = weight / np.sqrt(variance + epsilon)
        if mean.any() or not np.allclose(gain, 1, atol=1e-6):
            continue
        if len(layer.input) > 2:
            bias = bias + numpy_helper.to_array(values[layer.input[2]])
        name = f'{norm.input[2]}_folded'
        proto.graph.initializer.append(numpy_helper.from_array(bias, name))
        layer.input[2:] = [name]
        layer.output[0] = norm.output[0]
        proto.graph.node.remove(norm)
    _drop_unused(proto)


def store_integers(proto) -> None:
    """Store the weights that a file quantizes as integers.

    Args:
        proto (onnx.ModelProto): The graph, changed in place.
    """
    from onnx import numpy_helper

    values = {x.name: x for x in proto.graph.initializer}
    for node in list(proto.graph.node):
        if node.op_type != 'QuantizeLinear' or node.input[0] not in values:
            continue
        weight, scale, zero_point = (
            numpy_helper.to_array(values[name]) for name in node.input
        )
        axis = next((a.i for a in node.attribute if a.name == 'axis'), 1)
        if scale.ndim:
            shape = [1] * weight.ndim
            shape[axis] = -1
            scale = scale.reshape(shape)
        limits = np.iinfo(zero_point.dtype)
        integers = np.round(weight / scale) + zero_point.flat[0]
        proto.graph.initializer.append(
            numpy_helper.from_array(
                integers.clip(limits.min, limits.max).astype(zero_point.dtype),
                node.output[0],
            )
        )
        proto.graph.node.remove(node)
    _drop_unused(proto)


def store_integer_biases(proto) -> None:
    """Store the biases of layers that read integers as integers of 32 bits.

    A step of theirs is one of the input times one of the weight.

    Args:
        proto (onnx.ModelProto): The graph, changed in place.
    """
    from onnx import helper, numpy_helper

    graph = proto.graph
    values = {x.name: x for x in graph.initializer}
    scales = {
        node.output[0]: numpy_helper.to_array(values[node.input[1]])
        for node in graph.node
        if node.op_type == 'DequantizeLinear'
    }
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if (
            node.op_type in ('Conv', 'ConvTranspose', 'Gemm')
            and len(node.input) == 3
            and {*node.input[:2]} <= scales.keys()
            and node.input[2] in values
        ):
            bias = numpy_helper.to_array(values[node.input[2]])
            step = scales[node.input[0]] * scales[node.input[1]]
            limits = np.iinfo(np.int32)
            integers = np.round(bias / step).clip(limits.min, limits.max)
            name = f'{node.name}.bias'
            parts = {
                f'{name}_quantized': integers.astype(np.int32),
                f'{name}_scale': step,
            }
            graph.initializer.extend(
                numpy_helper.from_array(value, key)
                for key, value in parts.items()
            )
            node.input[2] = f'{name}_dequantized'
            graph.node.append(
                helper.make_node(
                    'DequantizeLinear', [*parts], [node.input[2]], name, axis=0
                )
            )
        graph.node.append(node)
    _drop_unused(proto)


def quantize_before_clips(proto) -> None:
    """Quantize what a clip like that of ReLU6 takes as what it gives, where
    integers reach beyond its limits.

    Nothing changes in what is computed, since rounding keeps the order of
    numbers. ONNX Runtime computes a convolution in integers only if a
    QuantizeLinear follows it, or a clip that it can leave out.

    Args:
        proto (onnx.ModelProto): The graph, changed in place.
    """
    from onnx import helper, numpy_helper

    graph = proto.graph
    values = {x.name: x for x in graph.initializer}
    quantizers = {
        node.input[0]: node
        for node in graph.node
        if node.op_type == 'QuantizeLinear'
    }
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        quantizer = quantizers.get(node.output[0])
        if node.op_type == 'Clip' and quantizer is not None:
            high, scale, zero_point = (
                numpy_helper.to_array(values[name])
                for name in (node.input[2], *quantizer.input[1:])
            )
            top = np.iinfo(zero_point.dtype).max - int(zero_point)
            if top * scale > high:
                names = node.input[0], f'{node.name}/q', f'{node.name}/dq'
                for kind, given, out in zip(
                    ('QuantizeLinear', 'DequantizeLinear'), names, names[1:]
                ):
                    graph.node.append(
                        helper.make_node(
                            kind, [given, *quantizer.input[1:]], [out], out
                        )
                    )
                node.input[0] = names[-1]
        graph.node.append(node)


def _drop_unused(proto) -> None:
    """Remove the initializers that no node reads."""
    read = {name for node in proto.graph.node for name in node.input}
    kept = [x for x in proto.graph.initializer if x.name in read]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
