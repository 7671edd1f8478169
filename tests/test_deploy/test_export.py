"""What an ONNX file computes is what the PyTorch model computes."""

import copy
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from mmcv.ops import DeformConv2dPack
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.registry import DefaultScope

from mmbckd.deploy import Interface, compare_onnx, export_onnx
from mmbckd.deploy.optional import require
from mmbckd.models.algorithms.frozen_teacher_distill import build_model
from mmbckd.models.utils import student_config
from tests.detectors import detector
from tests.segmentors import cnn_segmentor

ROOT = Path(__file__).parents[2]
PAIRS = ROOT / 'configs' / 'mmseg'
# A config of each architecture among the students of the zoo; DeepLabV3+ with
# ResNet-18 has the backbone of one and the head of another.
STUDENTS = (
    'pspnet_r101_pspnet_r18/pspnet_r18-d8_4xb4-40k_voc12aug-512x512.py',
    'deeplabv3_r101_deeplabv3_r18/'
    'deeplabv3_r18-d8_4xb4-40k_voc12aug-512x512.py',
    'deeplabv3plus_r101_deeplabv3plus_mobilenet-v2/'
    'mobilenet-v2-d8_deeplabv3plus_4xb4-40k_voc12aug-512x512.py',
    'hrnet_w48_hrnet_w18s/fcn_hr18s_4xb4-40k_coco-stuff10k-512x512.py',
    'segformer_b4_segformer_b0/segformer_mit-b0_8xb2-40k_voc12aug-512x512.py',
    'fpn_efficientnet-lite2_fpn_efficientnet-lite0/'
    'fpn_efficientnet-lite0_1xb8-500_camvid-180x240.py',
    'pidnet_l_pidnet_s/'
    'bckd_pidnet-l_pidnet-s_2xb6-120k_1024x1024-cityscapes.py',
    'ddrnet_23_ddrnet_23-slim/bckd_ddrnet_23_in1k-pre_'
    'ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py',
    'stdc2_stdc1/bckd_stdc2_in1k-pre_'
    'stdc1_in1k-pre_4xb12-80k_cityscapes-512x1024.py',
    'segnext_b_segnext_t/bckd_segnext_mscan-b_'
    'segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py',
    'segformer_b5_bisenetv2/bckd_segformer_mit-b5_'
    'bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py',
    'pspnet_r101_fast-scnn/bckd_pspnet_r101-d8_'
    'fast_scnn_8xb4-160k_cityscapes-512x1024.py',
    'pspnet_r101_lraspp_mobilenet-v3/bckd_pspnet_r101-d8_'
    'mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024.py',
)


def build(model, scope='mmseg'):
    with DefaultScope.overwrite_default_scope(scope):
        model = build_model(ConfigDict(model)).eval()
    # As after a training: means and variances that are not 0 and 1.
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return model


def pictures(*shape, count=2):
    rng = np.random.default_rng(0)
    # Smooth ones: each label covers more than a pixel.
    coarse = rng.integers(0, 256, (count, shape[0] // 8, shape[1] // 8, 3))
    return coarse.astype(np.uint8).repeat(8, 1).repeat(8, 2)


def predicted(model, image):
    """By mmseg's own inference, from the BGR image on."""
    planes = torch.from_numpy(image.transpose(2, 0, 1).copy())
    data = model.data_preprocessor(dict(inputs=[planes]), False)
    with torch.no_grad():
        (sample,) = model.predict(data['inputs'])
    return sample


@pytest.mark.parametrize(
    'config', STUDENTS, ids=[path.partition('/')[0] for path in STUDENTS]
)
def test_every_student_of_the_zoo_exports_and_agrees(
    config, tmp_path, monkeypatch
):
    monkeypatch.setenv('MMBCKD_CAMVID', str(tmp_path))
    config = Config.fromfile(PAIRS / config)
    model = build(student_config(config))
    # 6x6 bins of PSPNet's pooling do not divide maps of 8x12; LR-ASPP pools by
    # 49x49.
    shape = (392, 400) if 'lraspp' in config.filename else (64, 96)
    export_onnx(model, tmp_path / 'student.onnx', shape)
    found = compare_onnx(tmp_path / 'student.onnx', model, pictures(*shape))
    assert found.images == 2
    assert found.max_difference < 1e-4
    assert found.agreement > 99.9


META = dict(classes=('road', 'sky'), palette=[[1, 2, 3], [4, 5, 6]])


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A model that normalizes, and its file that takes normalized images."""
    config = cnn_segmentor()
    config['data_preprocessor'].update(
        mean=[120.0, 110.0, 100.0], std=[60.0, 50.0, 40.0], bgr_to_rgb=True
    )
    model = build(config)
    file = tmp_path_factory.mktemp('exported') / 'a.onnx'
    export_onnx(model, file, (64, 32), dataset_meta=META)
    return model, file


def test_logits_are_those_of_inference_in_the_size_of_the_image(exported):
    model, file = exported
    (image,) = pictures(64, 32, count=1)
    given = (image[..., ::-1] - [120.0, 110.0, 100.0]) / [60.0, 50.0, 40.0]
    (logits,) = onnxruntime.InferenceSession(str(file)).run(
        None, {'image': given.transpose(2, 0, 1)[None].astype(np.float32)}
    )
    truth = predicted(model, image).seg_logits.data.numpy()
    np.testing.assert_allclose(logits[0], truth, rtol=1e-4, atol=1e-4)


def test_file_tells_what_it_is_and_nothing_of_this_machine(exported):
    proto = onnx.load(exported[1])
    found = {p.key: json.loads(p.value) for p in proto.metadata_props}
    assert found['classes'] == ['road', 'sky']
    assert found['palette'] == META['palette']
    assert found['input'] == dict(
        kind='normalized',
        channel_order='rgb',
        mean=[120.0, 110.0, 100.0],
        std=[60.0, 50.0, 40.0],
    )
    assert found['versions']['torch'] == version('torch')
    assert [x.version for x in proto.opset_import] == [18]
    assert b'site-packages' not in exported[1].read_bytes()
    nodes = {node.name: node.op_type for node in proto.graph.node}
    assert len(nodes) == len(proto.graph.node)
    assert nodes['decode_head.conv_seg'] == 'Conv'
    assert nodes['backbone.layer1.0.conv1'] == 'Conv'
    assert 'BatchNormalization' not in nodes.values()


def test_model_that_gives_nan_is_not_compared(exported):
    model = copy.deepcopy(exported[0])
    torch.nn.init.constant_(model.decode_head.conv_seg.bias, torch.nan)
    with pytest.raises(ValueError, match='NaN'):
        compare_onnx(exported[1], model, pictures(64, 32))


def test_file_of_other_weights_is_seen(exported):
    model = copy.deepcopy(exported[0])
    weights = model.decode_head.conv_seg.weight.data
    weights.copy_(-weights)
    found = compare_onnx(exported[1], model, pictures(64, 32))
    assert found.max_difference > 0.1
    assert found.agreement < 90


def test_file_normalizes_images_and_decides_the_labels(exported, tmp_path):
    model, file = exported[0], tmp_path / 'labels.onnx'
    images = pictures(64, 32)
    export_onnx(
        model,
        file,
        (64, 32),
        Interface('float32', 'bgr', 'labels'),
        dynamic_batch=True,
    )
    given = images.transpose(0, 3, 1, 2).astype(np.float32)
    session = onnxruntime.InferenceSession(str(file))
    for batch in (given, given[:1]):
        (labels,) = session.run(None, {'image': batch})
        assert labels.shape == (len(batch), 64, 32)
        for found, image in zip(labels, images):
            truth = predicted(model, image).pred_sem_seg.data[0].numpy()
            assert (found == truth).mean() > 0.999


def small_detector(kind):
    config = detector()
    head = config['bbox_head']
    if kind != 'RetinaNet':
        config['type'] = kind
        head['type'] = f'{kind}Head'
        head.pop('bbox_coder')
    if kind == 'FCOS':
        head.pop('anchor_generator')
        head.update(strides=[8, 16, 32], norm_cfg=None)
        head['regress_ranges'] = ((-1, 64), (64, 128), (128, 1e8))
    if kind == 'GFL':
        head['norm_cfg'] = None
    return config


@pytest.mark.parametrize(
    'kind, names',
    [
        ('RetinaNet', ['cls_score', 'bbox_pred']),
        ('FCOS', ['cls_score', 'bbox_pred', 'score_factor']),
        ('GFL', ['cls_score', 'bbox_pred']),
    ],
)
def test_detectors_of_one_stage_give_their_raw_maps(kind, names, tmp_path):
    model = build(small_detector(kind), 'mmdet')
    file = tmp_path / 'a.onnx'
    export_onnx(model, file, (64, 96))
    session = onnxruntime.InferenceSession(file)
    assert [x.name for x in session.get_outputs()] == [
        f'{name}_{level}' for name in names for level in range(3)
    ]
    found = compare_onnx(file, model, pictures(64, 96))
    assert found.max_difference < 1e-4
    assert found.agreement is None


def test_labels_are_asked_of_segmentors_only(tmp_path):
    """Raw maps of a detector come as they are."""
    model = build(detector(), 'mmdet')
    interface = Interface(output='labels')
    export_onnx(model, tmp_path / 'a.onnx', (64, 96), interface)
    found = compare_onnx(
        tmp_path / 'a.onnx', model, pictures(64, 96), interface
    )
    assert found.max_difference < 1e-4


def test_detector_with_more_than_boxes_is_refused(tmp_path):
    """RTMDet-Ins: one stage, but its masks are computed per object."""
    config = get_config('mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py')
    model = dict(config.model, _scope_='mmdet')
    model['backbone'].init_cfg = None
    with pytest.raises(TypeError, match='RTMDetInsSepBNHead .* mask'):
        export_onnx(build(model, 'mmdet'), tmp_path / 'a.onnx', (64, 64))


def test_cascade_of_heads_exports(tmp_path):
    model = cnn_segmentor()
    head = model['decode_head']
    coarse = dict(
        type='FCNHead',
        in_channels=head['in_channels'][-1],
        in_index=3,
        channels=8,
        num_convs=1,
        concat_input=False,
        num_classes=head['num_classes'],
        norm_cfg=dict(type='BN'),
    )
    fine = dict(coarse, type='OCRHead', ocr_channels=8)
    del fine['num_convs'], fine['concat_input']
    model.update(
        type='CascadeEncoderDecoder', num_stages=2, decode_head=[coarse, fine]
    )
    model = build(model)
    export_onnx(model, tmp_path / 'a.onnx', (64, 96))
    found = compare_onnx(tmp_path / 'a.onnx', model, pictures(64, 96))
    assert found.agreement > 99.9 and found.max_difference < 1e-4


class FasterRCNN(torch.nn.Module):
    pass


def test_model_of_two_stages_is_refused(tmp_path):
    with pytest.raises(TypeError, match='one stage .* but got FasterRCNN'):
        export_onnx(FasterRCNN(), tmp_path / 'a.onnx', (32, 32))


def test_operator_that_onnx_lacks_is_named(tmp_path):
    model = build(cnn_segmentor())
    model.backbone.layer4[0].conv1 = DeformConv2dPack(
        32, 64, 3, stride=2, padding=1
    )
    with pytest.raises(
        ValueError, match=r'layer4.0.conv1 \(DeformConv2dPack\)'
    ):
        export_onnx(model, tmp_path / 'a.onnx', (96, 96))


@pytest.mark.parametrize(
    'kwargs, match',
    [
        (dict(interface=Interface('uint16')), "`kind` to be one .*'uint16'"),
        (dict(interface=Interface(output='map')), "`output` .*'map'"),
        (dict(opset=16), '17 or more, but got 16'),
    ],
)
def test_unknown_options_are_refused(kwargs, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        export_onnx(
            build(cnn_segmentor()), tmp_path / 'a.onnx', (32, 32), **kwargs
        )


def test_pytorch_that_cannot_export_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.6.0+cu124')
    with pytest.raises(RuntimeError, match='2.7 or later .* is 2.6.0'):
        export_onnx(build(cnn_segmentor()), tmp_path / 'a.onnx', (32, 32))


class Fixed(torch.nn.Module):
    """A backbone that cannot take every size."""

    def forward(self, x):
        half = x[:, :, ::2]
        return [half.add(x[:, :, 1::2])] * 4


def test_size_that_the_network_cannot_take_is_named(tmp_path):
    model = build(cnn_segmentor())
    model.backbone = Fixed()
    with pytest.raises(ValueError, match='but 33x32 leads to.*multiples'):
        export_onnx(model, tmp_path / 'a.onnx', (33, 32))


def test_missing_package_is_one_sentence_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ImportError, match=r"pip install 'mmbckd\[deploy\]'"):
        require('onnxruntime')
