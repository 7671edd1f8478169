"""A student that trains with fake quantization computes as its INT8 file."""

import copy
import os

import numpy as np
import onnx
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmrazor.models.task_modules.recorder import ModuleInputsRecorder
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator
from torch.nn import SyncBatchNorm
from torch.nn import functional as F

from mmbckd.deploy import compare_onnx, export_qdq
from mmbckd.models.quantization import (
    FakeQuantization,
    build_quantization,
    fold_norm,
)
from mmbckd.models.quantization.quantizers import (
    ActivationQuantizer,
    LayerQuantizer,
)
from mmbckd.models.utils import build_student, load_student
from tests import runs
from tests.processes import run_side_by_side
from tests.segmentors import (
    cnn_segmentor,
    transformer_segmentor,
    with_grouped_deconvolution,
)
from tests.test_deploy.test_export import build, pictures


def images(count=4, side=64):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, 3, side, side, generator=generator)
        for _ in range(count)
    ]


def logits(model, image):
    with torch.no_grad():
        return model(image, mode='tensor')


@pytest.fixture(scope='module')
def quantized():
    """A model as it was, with fake quantization, and the latter."""
    torch.manual_seed(0)
    before = build(cnn_segmentor())
    model = copy.deepcopy(before)
    quantization = FakeQuantization(model, weight_bits=4)
    quantization.calibrate(images())
    return before, model, quantization


def test_float_model_and_its_checkpoint_stay_the_same(quantized):
    before, model, quantization = quantized
    plain = build(cnn_segmentor())
    plain.load_state_dict(model.state_dict(), strict=True)
    assert type(model) is type(before)
    for image in images(2):
        truth = logits(before, image)
        with quantization.mode('keep'):
            torch.testing.assert_close(logits(model, image), truth)
        torch.testing.assert_close(logits(plain, image), truth)


def test_batch_norm_is_left_with_its_bias(quantized):
    _, model, quantization = quantized
    norm, convolution = model.backbone.layer1[0].bn1, torch.nn.Conv2d(3, 4, 1)
    assert torch.equal(norm.weight, torch.ones_like(norm.weight))
    assert not norm.weight.requires_grad and norm.bias.requires_grad
    model.train()
    quantization.train()
    assert not norm.training
    quantization.model.eval()
    # Of a convolution with a bias.
    other = torch.nn.BatchNorm2d(4).eval()
    for value in (other.running_mean, other.bias.data, other.weight.data):
        value.normal_()
    other.running_var.uniform_(0.5, 2)
    image = torch.randn(2, 3, 5, 5)
    truth = other(convolution(image))
    fold_norm(convolution, other)
    torch.testing.assert_close(other(convolution(image)), truth)


def test_batch_norms_that_are_synchronized_are_folded_too(quantized):
    before, _, _ = quantized
    model = SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(before))
    found = FakeQuantization(model, weight_bits=4)
    # As mmengine's runner does without several processes.
    assert revert_sync_batchnorm(model) is model
    found.calibrate(images())
    expected = copy.deepcopy(before)
    FakeQuantization(expected, weight_bits=4).calibrate(images())
    image = images(1)[0]
    assert torch.equal(logits(model, image), logits(expected, image))


def test_weights_are_rounded_for_each_channel(quantized):
    _, model, _ = quantized
    layer = model.neck.lateral_convs[1].conv
    seen = []
    # A hook that comes after those of the quantization.
    handle = layer.register_forward_pre_hook(
        lambda module, args: seen.append(module.weight.detach().clone())
    )
    logits(model, images(1)[0])
    handle.remove()
    weight = layer.weight.detach().double().numpy()
    for got, channel in zip(seen[0].numpy(), weight):
        step = np.abs(channel).max() / 7  # 4 bits: -7 to 7
        np.testing.assert_allclose(
            got, np.round(channel / step) * step, rtol=1e-5
        )
    assert len(np.unique(np.round(seen[0][0] / step))) > 3
    assert layer.weight is layer._parameters['weight']


@pytest.mark.parametrize('bits', [8, 3])
def test_sums_are_exact_with_scales_of_powers_of_two(bits):
    torch.manual_seed(0)
    model = build(cnn_segmentor())
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(norm.bias)
    quantization = FakeQuantization(
        model, weight_bits=bits, power_of_two_scales=True
    )
    quantization.calibrate(images())
    for quantizer in quantization.activations.values():
        log2 = np.log2(quantizer.scale.item())
        assert log2 == round(log2) and quantizer.zero_point % 2 == 0
    seen = []
    block = model.backbone.layer2[0]
    for module in (block.conv2, block.bn2):
        module.register_forward_hook(
            lambda m, args, out: seen.append((args[0], m.weight, m.bias, out)),
            prepend=True,
        )
    logits(model, images(1)[0])
    (x, weight, *_), (*_, bias, out) = seen
    truth = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    assert (bias != block.bn2.bias).all()
    assert torch.equal(out.double(), truth)
    # Integers of this many bits for each channel, and a bias in their steps.
    (quantizer,) = (q for q in quantization.layers if q.layer is block.conv2)
    integers = weight / quantizer.scale.view(-1, 1, 1, 1)
    assert torch.equal(integers, integers.round())
    assert integers.abs().max() == 2 ** (bits - 1) - 1
    step = quantizer.scale * quantizer.source.scale
    steps = bias / step
    assert torch.equal(steps, steps.round())
    assert ((bias - block.bn2.bias).abs() <= step / 2).all()


def test_power_of_two_of_a_weight_is_the_better_one():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(16, 32, 3)
    quantizer = LayerQuantizer(layer, 4, power_of_two=True)
    weights = layer.weight.detach().double().numpy()
    for weight, scale in zip(weights, quantizer.next_scale()):
        errors = {}
        for step in 2.0 ** np.arange(-12, 2):
            rounded = np.round(weight / step).clip(-7, 7) * step
            errors[step] = np.square(rounded - weight).sum()
        assert scale.item() == min(errors, key=errors.get)


def test_bias_of_a_channel_that_is_all_but_zero_is_kept():
    layer = torch.nn.Conv2d(3, 4, 1)
    layer.weight.data[2] = 1e-12
    layer.bias.data[:] = 0.3
    source = ActivationQuantizer('input', False, True)
    source.low, source.high = 0.0, 6.0
    source.set_range()
    quantizer = LayerQuantizer(layer, 8, None, source, True)
    found = quantizer.quantize(layer)
    torch.testing.assert_close(found['bias'], layer.bias, rtol=0, atol=1e-3)
    assert not found['weight'][2].any() and found['weight'][1].any()


def test_halves_are_rounded_as_onnx_defines_it():
    """To even before the zero point is added."""
    quantizer = ActivationQuantizer('tensor', False, False)
    quantizer.zero_point.fill_(3)
    x = np.arange(-5, 5, 0.5, dtype=np.float32)
    graph = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]>'
        'graph (float[20] x) => (uint8[20] q) <float s = {1}, uint8 z = {3}>'
        '{ q = QuantizeLinear(x, s, z) }'
    )
    (truth,) = ReferenceEvaluator(graph).run(None, dict(x=x))
    found = quantizer.quantize(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_array_equal(found, truth.astype(np.float32) - 3)


def test_recorders_see_values_of_at_most_256_steps(quantized):
    _, model, quantization = quantized
    recorder = ModuleInputsRecorder('decode_head.conv_seg')
    recorder.initialize(model)
    features = []
    handle = model.backbone.register_forward_hook(
        lambda module, args, out: features.extend(out)
    )
    with recorder:
        logits(model, images(1)[0])
    handle.remove()
    seen = recorder.get_record_data(data_idx=0)
    key = 'decode_head/dropout:input'
    for name, value in {
        key: seen,
        'backbone/layer1/1:output': features[0],
        'backbone/layer4/1:output': features[3],
    }.items():
        quantizer = quantization.activations[name]
        steps = (value / quantizer.log2_scale.detach().exp2()).numpy()
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
        assert 10 < len(np.unique(np.round(steps))) <= 256


def test_both_sides_of_a_sum_and_the_logits_are_quantized(quantized):
    *_, quantization = quantized
    sites = set(quantization.activations)
    # A block's second convolution and its shortcut; its ReLU, which runs
    # twice, by those who read it.
    assert {
        'backbone/layer2/0/bn2:output',
        'backbone/layer2/0/downsample/1:output',
        'backbone/layer2/0/conv2:input',
        'backbone/layer2/0:output',
        'decode_head/conv_seg:output',
    } <= sites
    assert 'backbone/layer2/0/relu:output' not in sites


# A sum of floats in another order is now and then rounded to the next
# integer: random weights let it spread, and have no margin. Sums of products
# of powers of two and small integers are exact.
@pytest.mark.parametrize(
    'kwargs, min_agreement, max_difference',
    [
        (dict(), 100, 1e-5),
        (dict(activations='int8', power_of_two_scales=False), 95, 0.1),
    ],
)
def test_file_has_the_scales_that_were_learned(
    kwargs, min_agreement, max_difference, tmp_path
):
    torch.manual_seed(0)
    model = build(cnn_segmentor())
    quantization = FakeQuantization(model, **kwargs)
    quantization.calibrate(
        torch.from_numpy(x.transpose(2, 0, 1)[None].astype(np.float32))
        for x in pictures(64, 64)
    )
    with torch.no_grad():
        for quantizer in quantization.activations.values():
            quantizer.log2_scale += 0.1 * torch.rand(())
    file = tmp_path / 'a.onnx'
    export_qdq(quantization, file, (64, 64))
    proto = onnx.load(file)
    values = {
        x.name: numpy_helper.to_array(x) for x in proto.graph.initializer
    }
    found = {
        (values[n.input[1]].item(), values[n.input[2]].item())
        for n in proto.graph.node
        if n.op_type == 'QuantizeLinear'
    }
    assert found == {
        (q.scale.item(), int(q.zero_point))
        for q in quantization.activations.values()
    }
    kinds = {n.op_type for n in proto.graph.node}
    assert 'BatchNormalization' not in kinds
    weights = [v for v in values.values() if v.ndim == 4]
    assert {v.dtype for v in weights} == {np.dtype(np.int8)}
    assert len(weights) == len(quantization.layers)
    biases = [v for v in values.values() if v.dtype == np.int32]
    with_bias = [
        n for n in proto.graph.node if n.op_type == 'Conv' and len(n.input) > 2
    ]
    assert len(with_bias) > 30
    # TensorRT refuses biases as integers.
    assert len(biases) == (0 if quantization.signed else len(with_bias))
    found = compare_onnx(file, model, pictures(64, 64), exact_sums=True)
    assert found.agreement >= min_agreement
    assert found.max_difference < max_difference


def test_transposed_convolution_of_groups_stays_in_float(tmp_path):
    torch.manual_seed(0)
    model = with_grouped_deconvolution(build(cnn_segmentor()))
    quantization = FakeQuantization(model)
    quantization.calibrate(images())
    assert quantization.left == [
        'decode_head.conv_seg.0 (ConvTranspose2d)',
    ]
    export_qdq(quantization, tmp_path / 'a.onnx', (64, 64))
    found = compare_onnx(
        tmp_path / 'a.onnx', model, pictures(64, 64), exact_sums=True
    )
    assert found.agreement > 95


def test_linear_layers_are_quantized_and_others_are_named(tmp_path):
    torch.manual_seed(0)
    model = build(transformer_segmentor())
    quantization = FakeQuantization(model)
    quantization.calibrate(images())
    export_qdq(quantization, tmp_path / 'a.onnx', (64, 64))
    found = compare_onnx(
        tmp_path / 'a.onnx', model, pictures(64, 64), exact_sums=True
    )
    assert found.agreement > 95
    assert 'backbone.layers.0.2 (LayerNorm)' in quantization.left
    assert 'backbone.layers.0.1.0.attn.attn (MultiheadAttention)' in (
        quantization.left
    )
    assert not any('Conv2d' in name for name in quantization.left)


@pytest.mark.parametrize(
    'kwargs, match',
    [
        (dict(weight_bits=9), 'from 2 to 8, but got 9'),
        (dict(weight_bits=True), 'but got True'),
        (dict(activations='int4'), "`activations` .* 'int4'"),
        (dict(exclude=['nothing']), "`exclude` .* 'nothing'"),
        (dict(exclude=['backbone', 'neck', 'decode_head']), 'runs none'),
    ],
)
def test_wrong_options_are_refused(kwargs, match):
    with pytest.raises(ValueError, match=match):
        FakeQuantization(build(cnn_segmentor()), **kwargs)


def test_excluded_layers_stay_in_float():
    model = build(cnn_segmentor())
    quantization = FakeQuantization(model, exclude='decode_head')
    assert not any('decode_head' in x for x in quantization.activations)
    layers = [quantizer.layer for quantizer in quantization.layers]
    assert layers and model.decode_head.conv_seg not in layers


def test_activation_that_is_never_positive_has_a_zero_point_in_range():
    for power_of_two in (True, False):
        quantizer = ActivationQuantizer('a', False, power_of_two)
        quantizer.low, quantizer.high = -4.6, -0.1
        quantizer.set_range()
        assert 0 <= quantizer.zero_point <= 255


def test_nan_in_calibration_is_located():
    model = build(cnn_segmentor())
    quantization = FakeQuantization(model)
    with pytest.raises(ValueError, match='but there are none'):
        quantization.calibrate([])
    torch.nn.init.constant_(model.neck.lateral_convs[0].conv.bias, torch.nan)
    with pytest.raises(
        ValueError, match=r'output of neck.lateral_convs.0.conv has NaN'
    ):
        quantization.calibrate(images())


def test_model_that_was_not_calibrated_does_not_run():
    model = build(cnn_segmentor())
    FakeQuantization(model)
    with pytest.raises(ValueError, match='CalibrationHook'):
        logits(model, images(1)[0])


def training(tmp_path, distill, **kwargs):
    """A run with fake quantization that begins with a float student."""
    config = runs.config(tmp_path, distill, **kwargs)
    if distill:
        config.model.quantize = dict()
        config.model.distiller.logits = dict(type='ChannelWiseDivergence')
    else:
        config.model = dict(
            type='mmrazor.QuantizationAwareTraining', architecture=config.model
        )
    config.custom_hooks.append(dict(type='CalibrationHook', num_images=2))
    config.default_hooks.checkpoint.max_keep_ckpts = -1
    config.optim_wrapper.optimizer = dict(type='AdamW', lr=1e-3)
    config.load_from = str(tmp_path / 'float.pth')
    return config


def write_float_student(tmp_path):
    runs.write_images(tmp_path)
    torch.manual_seed(0)
    student = build(
        runs.config(tmp_path, distill=False).model.to_dict()
    ).state_dict()
    torch.save(dict(state_dict=student), tmp_path / 'float.pth')


@pytest.mark.parametrize('distill', [False, True])
def test_training_resumes_and_leaves_a_plain_student(distill, tmp_path):
    init_default_scope('mmseg')
    write_float_student(tmp_path)
    config = training(tmp_path, distill)
    runner = Runner.from_cfg(copy.deepcopy(config))
    runner.train()
    quantization = runner.model.quantization
    assert quantization.calibrated
    begun, ended = (
        torch.load(tmp_path / f'work_dir/iter_{i}.pth')['state_dict']
        for i in (2, 4)
    )
    # Images of integers are hit exactly by theirs.
    learned = [
        k
        for k in ended
        if k.endswith('log2_scale') and 'stem/0:input' not in k
    ]
    assert learned
    assert all(not torch.equal(begun[k], ended[k]) for k in learned)
    norms = [k for k in ended if k.endswith('bn1.running_mean')]
    own = [k for k in norms if not k.startswith('teacher.')]
    assert own and not any(ended[k].any() for k in own)

    # The same command after the second iteration.
    config.resume = True
    config.load_from = str(tmp_path / 'work_dir/iter_2.pth')
    config.work_dir = str(tmp_path / 'resumed')
    config.experiment_name += '_resumed'
    resumed = Runner.from_cfg(copy.deepcopy(config))
    resumed.train()
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, ended[key]), key

    # The plain student computes what the float part computes.
    checkpoint = str(tmp_path / 'work_dir/iter_4.pth')
    student = build_student(config).eval()
    plain = str(tmp_path / 'work_dir/iter_4_student.pth')
    load_student(student, plain)
    image = images(1, 32)[0]
    model = runner.model.architecture.eval()
    with quantization.mode('keep'):
        torch.testing.assert_close(
            logits(student, image), logits(model, image)
        )
    assert build_quantization(config, plain, student) is None
    # And the whole checkpoint what was trained.
    again = build_student(config).eval()
    load_student(again, checkpoint)
    assert build_quantization(config, checkpoint, again).calibrated
    assert torch.equal(logits(again, image), logits(model, image))
    with pytest.raises(ValueError, match='no `quantize`'):
        build_quantization(
            Config(dict(model=cnn_segmentor())), checkpoint, again
        )


def test_checkpoint_of_another_student_is_refused(tmp_path):
    init_default_scope('mmseg')
    write_float_student(tmp_path)
    config = training(tmp_path, False)
    config.model.architecture.decode_head.num_classes = 4
    config.train_dataloader.dataset.metainfo.classes = runs.CLASSES[:4]
    with pytest.raises(ValueError, match='lacks 2 of .*conv_seg.weight'):
        Runner.from_cfg(config).train()


def test_checkpoint_of_another_quantization_is_refused(quantized):
    *_, quantization = quantized
    other = FakeQuantization(build(cnn_segmentor()), exclude='neck')
    with pytest.raises(ValueError, match='checkpoint of this quantization'):
        other.load_state_dict(quantization.state_dict())


@pytest.mark.parametrize(
    'options',
    [
        dict(weight_bits=4),
        dict(activations='int8'),
        dict(power_of_two_scales=False),
    ],
)
def test_checkpoint_of_other_options_is_refused(options):
    quantization = FakeQuantization(build(cnn_segmentor()))
    other = FakeQuantization(build(cnn_segmentor()), **options)
    with pytest.raises(ValueError, match='weight_bits=8, .*uint8.*=True'):
        other.load_state_dict(quantization.state_dict())


def test_two_processes_learn_the_same(tmp_path):
    write_float_student(tmp_path)
    run_side_by_side(
        train_in_a_process, [(rank, tmp_path) for rank in '01'], tmp_path
    )
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in '01')
    assert any(key.endswith('log2_scale') for key in first)
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def train_in_a_process(rank, tmp_path):
    os.environ.update(
        RANK=rank,
        LOCAL_RANK=rank,
        WORLD_SIZE='2',
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(20000 + os.getppid() % 20000),
    )
    init_default_scope('mmseg')
    config = training(
        tmp_path,
        True,
        launcher='pytorch',
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
    )
    config.train_cfg.val_interval = 100
    config.default_hooks.checkpoint.pop('save_best')
    runner = Runner.from_cfg(config)
    runner.train()
    torch.save(runner.model.module.state_dict(), tmp_path / f'{rank}.pth')
