"""INT8 after training, and what it costs each layer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from .backends import INPUT, open_session
from .optional import require

METHODS = ('minmax', 'entropy', 'percentile')
ACTIVATIONS = ('uint8', 'int8')
_WITH_WEIGHTS = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')


class LayerError(NamedTuple):
    """What quantization does to the output of a layer.

    Attributes:
        layer (str): The node of the file, by the name of its module.
        own (float): Relative error by rounding this output alone: the norm
            of the difference before and after, over the norm before.
        total (float): Relative error against the float file, by all that is
            rounded up to here.
    """

    layer: str
    own: float
    total: float


class _Reader:
    """Gives ONNX Runtime the images, by its CalibrationDataReader."""

    def __init__(self, images: Sequence[ndarray]) -> None:
        self.images = images
        self.set_range(0, len(images))

    def __len__(self) -> int:
        return len(self.images)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._left = iter(self.images[start_index:end_index])

    def get_next(self) -> dict | None:
        return next(self, None)

    def __iter__(self) -> Iterator[dict]:
        return self

    def __next__(self) -> dict:
        return {INPUT: next(self._left)}


def quantize_int8(
    float_file: str | Path,
    file: str | Path,
    images: Sequence[ndarray],
    *,
    method: str = 'minmax',
    exclude: Sequence[str] = (),
    activations: str = 'uint8',
    reduce_range: bool = False,
) -> list[str]:
    """Quantize an ONNX file to INT8 by ONNX Runtime's static quantization.

    Weights get a scale per output channel, activations one each, fixed by
    what they are on the images (Jacob et al., CVPR 2018). The file says so by
    pairs of QuantizeLinear and DequantizeLinear (QDQ), which compilers for
    chips read. What precedes the first layer with weights, as a
    normalization, stays in float.

    Args:
        float_file (str | Path): What :func:`export_onnx` has written.
        file (str | Path): The file to write.
        images (Sequence[ndarray]): What the file takes, (1, 3, H, W) each:
            some tens of training images, without augmentation.
        method (str): How the range of an activation is chosen: 'minmax' of
            all values, the 'percentile' 99.999 of their size, or by
            'entropy', the least KL divergence from the float values.
            Defaults to 'minmax'.
        exclude (Sequence[str]): Layers to keep in float, by the names of
            their modules: 'decode_head' is all of it. Defaults to none.
        activations (str): 'uint8' with a zero point, or for TensorRT 'int8'
            without, and with biases in float. Defaults to 'uint8'.
        reduce_range (bool): Whether weights have 7 bits. x86 CPUs without
            VNNI add pairs of products in 16 bits, which can overflow with 8.
            Defaults to False.

    Returns:
        list[str]: The nodes that were kept in float by ``exclude``, and the
        transposed convolutions of several groups, which are too.

    Raises:
        ImportError: If the optional packages are not installed.
        ValueError: If an option is unknown, a layer does not exist, there are
            no images, or they lead to values that are not finite.
    """
    onnx, quantization = require('onnx', 'onnxruntime.quantization')
    for name, value, known in (
        ('method', method, METHODS),
        ('activations', activations, ACTIVATIONS),
    ):
        if value not in known:
            raise ValueError(
                f'Expected `{name}` to be one of {known}, but got {value!r}.'
            )
    if not len(images):
        raise ValueError(
            'Expected images to calibrate with, but there are none. Some '
            'tens of training images are enough.'
        )
    check_finite(float_file, images)
    proto = onnx.load(str(float_file))
    # A scale for each channel of all groups does not fit the biases.
    grouped = [
        node.name
        for node in proto.graph.node
        if node.op_type == 'ConvTranspose'
        and any(a.name == 'group' and a.i > 1 for a in node.attribute)
    ]
    excluded = list(dict.fromkeys([*matching_nodes(proto, exclude), *grouped]))
    signed = activations == 'int8'
    types = quantization.QuantType
    methods = quantization.CalibrationMethod
    with tempfile.TemporaryDirectory() as folder:
        inferred = f'{folder}/inferred.onnx'
        prepared = onnx.shape_inference.infer_shapes(proto)
        # What ONNX Runtime asks for before it quantizes, shapes and folded
        # batch norms, is there.
        prepared.metadata_props.add(
            key='onnx.quant.pre_process', value='onnxruntime.quant'
        )
        onnx.save(prepared, inferred)
        quantization.quantize_static(
            inferred,
            str(file),
            _Reader(images),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=types.QInt8 if signed else types.QUInt8,
            weight_type=types.QInt8,
            per_channel=True,
            reduce_range=reduce_range,
            calibrate_method=dict(
                minmax=methods.MinMax,
                entropy=methods.Entropy,
                percentile=methods.Percentile,
            )[method],
            nodes_to_exclude=[*excluded, *preprocessing_nodes(proto)],
            extra_options=dict(
                ActivationSymmetric=signed,
                WeightSymmetric=True,
                # TensorRT refuses a DequantizeLinear of 32 bits.
                QuantizeBias=not signed,
                # One image at a time, or the activations of all are held.
                CalibStridedMinMax=1,
            ),
        )
    written = onnx.load(str(file))
    del written.metadata_props[:]
    written.metadata_props.extend(proto.metadata_props)
    onnx.save(written, str(file))
    return excluded


def check_finite(file: str | Path, images: Sequence[ndarray]) -> None:
    """Check that a file gives finite values on images.

    Args:
        file (str | Path): The ONNX file.
        images (Sequence[ndarray]): What it takes.

    Raises:
        ValueError: If an image or an output has NaN or infinity.
    """
    session = open_session(file)
    for number, image in enumerate(images):
        for what, arrays in (
            ('image', [image]),
            ('output', session.run(None, {INPUT: image})),
        ):
            if not all(np.isfinite(array).all() for array in arrays):
                raise ValueError(
                    'Expected finite values to calibrate with, but the '
                    f'{what} of image {number} has NaN or infinity. Look at '
                    'the data (`mim run mmbckd check_data`) and the '
                    'checkpoint.'
                )


def matching_nodes(proto, layers: Sequence[str]) -> list[str]:
    """The nodes of modules.

    Args:
        proto (onnx.ModelProto): A graph with nodes named by their modules.
        layers (Sequence[str]): Modules, such as 'decode_head.conv_seg'.

    Returns:
        list[str]: The names of their nodes, and of those inside them.

    Raises:
        ValueError: If a module has no node.
    """
    names = [node.name for node in proto.graph.node]
    found = []
    for layer in layers:
        nodes = [
            name
            for name in names
            if name == layer or name.startswith((f'{layer}.', f'{layer}/'))
        ]
        if not nodes:
            weighted = [
                node.name
                for node in proto.graph.node
                if node.op_type in _WITH_WEIGHTS
            ]
            raise ValueError(
                f'Expected layers of the file to exclude, but got {layer!r}. '
                f'Those with weights are: {", ".join(weighted)}.'
            )
        found += nodes
    return list(dict.fromkeys(found))


def preprocessing_nodes(proto) -> list[str]:
    """The nodes between the image and the first layers with weights.

    Args:
        proto (onnx.ModelProto): The graph.

    Returns:
        list[str]: Their names.
    """
    before, names = {INPUT}, []
    for node in proto.graph.node:  # in topological order
        if node.op_type in _WITH_WEIGHTS or not before & set(node.input):
            continue
        before.update(node.output)
        names.append(node.name)
    return names


def layer_errors(
    float_file: str | Path,
    file: str | Path,
    images: Sequence[ndarray],
) -> list[LayerError]:
    """What quantization does to the output of each layer.

    Args:
        float_file (str | Path): The float file.
        file (str | Path): The quantized one made from it.
        images (Sequence[ndarray]): What they take; a few are enough.

    Returns:
        list[LayerError]: The layers whose output is quantized, in the order
        of the network.

    Raises:
        ImportError: If the optional packages are not installed.
    """
    onnx, debug = require('onnx', 'onnxruntime.quantization.qdq_loss_debug')
    nodes = {
        output: node
        for node in onnx.load(str(float_file)).graph.node
        for output in node.output
    }
    # Errors are sums over images, so that one image after the other is held.
    sums: dict[str, ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        augmented = []
        for i, path in enumerate((float_file, file)):
            augmented.append(f'{folder}/{i}.onnx')
            debug.modify_model_output_intermediate_tensors(
                str(path), augmented[-1]
            )
        for image in images:
            exact, quantized = (
                debug.collect_activations(path, _Reader([image]))
                for path in augmented
            )
            matched = debug.create_activation_matching(quantized, exact)
            for name, arrays in matched.items():
                if name not in nodes or not arrays['float']:
                    continue
                before, after, truth = (
                    arrays[key][0].astype(np.float64)
                    for key in ('pre_qdq', 'post_qdq', 'float')
                )
                if nodes[name].op_type in ('Relu', 'Clip'):
                    # In the quantized file the rounding does its work.
                    before = before.clip(truth.min(), truth.max())
                sums[name] = sums.get(name, 0) + np.array(
                    [
                        np.square(x).sum()
                        for x in (after - before, before, after - truth, truth)
                    ]
                )
    found = []
    for output, node in nodes.items():
        if output in sums:
            own, before, total, truth = np.sqrt(
                np.maximum(sums[output], np.finfo(np.float64).tiny)
            )
            found.append(LayerError(node.name, own / before, total / truth))
    return found
