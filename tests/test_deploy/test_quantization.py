"""INT8 files: what is rounded, what is not, and what is said about it."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from mmbckd.deploy import Interface, export_onnx, layer_errors, quantize_int8
from mmbckd.deploy.comparison import compare_onnx, file_images
from tests.segmentors import cnn_segmentor, with_grouped_deconvolution
from tests.test_deploy.test_export import build, pictures

IMAGE = Interface('uint8', 'rgb')


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    config = cnn_segmentor()
    config['data_preprocessor'].update(
        mean=[120.0] * 3, std=[60.0] * 3, bgr_to_rgb=True
    )
    return build(config)


@pytest.fixture(scope='module')
def float_file(model, tmp_path_factory):
    file = tmp_path_factory.mktemp('float') / 'a.onnx'
    export_onnx(model, file, (32, 64), IMAGE)
    return file


@pytest.fixture(scope='module')
def images(model):
    pairs = file_images(model, pictures(32, 64, count=4), IMAGE)
    return [given for given, _ in pairs]


@pytest.fixture(scope='module')
def quantized(float_file, images):
    file = float_file.with_name('int8.onnx')
    # Of 7 bits, so that no CPU's sums of products overflow.
    kept = quantize_int8(
        float_file,
        file,
        images,
        exclude=['neck.fpn_convs.0.conv', 'backbone.layer4'],
        reduce_range=True,
    )
    return file, kept


def weights(file):
    """Of each layer, as they take part in its convolution."""
    proto = onnx.load(file)
    tensors = {
        x.name: numpy_helper.to_array(x) for x in proto.graph.initializer
    }
    made = {
        output: node for node in proto.graph.node for output in node.output
    }
    found = {}
    for node in proto.graph.node:
        if node.op_type != 'Conv':
            continue
        name = node.input[1]
        if name in tensors:
            found[node.name] = tensors[name], None
        else:
            ints, scale, zero = (tensors[x] for x in made[name].input)
            assert ints.dtype == np.int8 and not zero.any()
            found[node.name] = ints, scale
    return found


def test_weights_are_rounded_to_a_scale_per_channel(float_file, quantized):
    exact, rounded = weights(float_file), weights(quantized[0])
    assert exact.keys() == rounded.keys()
    for name, (ints, scale) in rounded.items():
        truth = exact[name][0]
        if name in quantized[1]:
            assert scale is None
            np.testing.assert_array_equal(ints, truth)
            continue
        largest = np.abs(truth).max(axis=(1, 2, 3))
        np.testing.assert_allclose(scale, largest / 64, rtol=0.02)
        step = scale[:, None, None, None]
        assert (np.abs(ints * step - truth) <= 0.501 * step).all()
    kept = {name for name, (_, scale) in rounded.items() if scale is None}
    assert 'neck.fpn_convs.0.conv' in kept
    assert any(name.startswith('backbone.layer4.') for name in kept)
    assert 'backbone.layer3.0.conv1' not in kept


def test_labels_are_nearly_those_of_the_model(model, quantized):
    found = compare_onnx(quantized[0], model, pictures(32, 64, count=4), IMAGE)
    assert found.agreement > 90


def test_file_keeps_its_description_and_its_float_normalization(
    float_file, quantized
):
    protos = [onnx.load(file) for file in (float_file, quantized[0])]
    described = [{p.key: p.value for p in x.metadata_props} for x in protos]
    assert described[0] == described[1]
    image = protos[1].graph.input[0]
    (reader,) = (
        node for node in protos[1].graph.node if image.name in node.input
    )
    assert reader.op_type == 'Cast'


def test_total_error_is_that_of_the_output(float_file, quantized, images):
    errors = layer_errors(float_file, quantized[0], images[:2])
    exact, rounded = (
        np.stack(
            [
                onnxruntime.InferenceSession(file).run(None, {'image': x})[0]
                for x in images[:2]
            ]
        )
        for file in (float_file, quantized[0])
    )
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    # ONNX Runtime computes in integers what the other simulates in floats.
    assert errors[-1].total == pytest.approx(error, rel=0.1)
    # 8 bits: half a step of 1/255 of the range, not much more.
    assert all(0 < e.own < 0.05 for e in errors)
    assert errors[0].total == pytest.approx(errors[0].own, rel=0.5)
    layers = {e.layer for e in errors}
    assert 'backbone.layer3.0.relu/Relu' in layers


@pytest.mark.parametrize('method', ['entropy', 'percentile'])
def test_other_methods_cut_off_what_is_rare(
    method, float_file, images, quantized
):
    file = float_file.with_name(f'{method}.onnx')
    quantize_int8(float_file, file, images, method=method, reduce_range=True)

    def scales(path):
        return {
            x.name: float(numpy_helper.to_array(x))
            for x in onnx.load(path).graph.initializer
            if x.name.startswith('relu') and x.name.endswith('_scale')
        }

    found, of_minmax = scales(file), scales(quantized[0])
    shared = found.keys() & of_minmax.keys()
    assert shared
    assert all(found[x] <= 1.01 * of_minmax[x] for x in shared)
    assert any(found[x] < 0.999 * of_minmax[x] for x in shared)


def test_transposed_convolution_of_groups_stays_in_float(tmp_path, images):
    file, int8 = tmp_path / 'a.onnx', tmp_path / 'int8.onnx'
    changed = with_grouped_deconvolution(build(cnn_segmentor()))
    export_onnx(changed, file, (32, 64), IMAGE)
    kept = quantize_int8(file, int8, images, reduce_range=True)
    assert kept == ['decode_head.conv_seg.0']
    assert compare_onnx(int8, changed, pictures(32, 64), IMAGE).agreement > 80


def test_int8_activations_are_what_tensorrt_takes(float_file, images):
    file = float_file.with_name('signed.onnx')
    quantize_int8(float_file, file, images, activations='int8')
    stored = onnx.load(file).graph.initializer
    zeros = [
        numpy_helper.to_array(x)
        for x in stored
        if x.name.endswith('_zero_point')
        and x.data_type == onnx.TensorProto.INT8
    ]
    assert zeros
    assert not any(zero.any() for zero in zeros)
    # TensorRT refuses biases as integers.
    assert onnx.TensorProto.INT32 not in {x.data_type for x in stored}


@pytest.mark.parametrize(
    'kwargs, match',
    [
        (dict(exclude=['neck.p5']), "but got 'neck.p5'.*decode_head.conv_seg"),
        (dict(method='mean'), "`method` .* 'mean'"),
        (dict(activations='int4'), "`activations` .* 'int4'"),
    ],
)
def test_unknown_options_are_refused(kwargs, match, float_file, images):
    file = float_file.with_name('refused.onnx')
    with pytest.raises(ValueError, match=match):
        quantize_int8(float_file, file, images[:1], **kwargs)
    assert not file.exists()


def test_calibration_without_images_or_with_nan_is_refused(
    model, tmp_path, float_file
):
    with pytest.raises(ValueError, match='but there are none'):
        quantize_int8(float_file, tmp_path / 'int8.onnx', [])
    file = tmp_path / 'a.onnx'
    export_onnx(model, file, (32, 64), Interface('float32'))
    image = np.full((1, 3, 32, 64), np.nan, np.float32)
    with pytest.raises(ValueError, match='image of image 0 has NaN'):
        quantize_int8(file, tmp_path / 'int8.onnx', [image])
    assert not (tmp_path / 'int8.onnx').exists()
