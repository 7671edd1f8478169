"""A teacher gets the images as its own data preprocessor would make them."""

import logging

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.logging import MMLogger
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import InstanceData, PixelData
from mmrazor.registry import MODELS
from mmseg.structures import SegDataSample

from tests.detectors import detector
from tests.segmentors import cnn_segmentor

IMAGENET = dict(
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
)
CAFFE = dict(mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0])
EFFICIENTNET = dict(mean=[127] * 3, std=[128] * 3, bgr_to_rgb=True)
PAIRS = [
    (IMAGENET, CAFFE),
    (CAFFE, EFFICIENTNET),
    (EFFICIENTNET, IMAGENET),
    (IMAGENET, {**IMAGENET, 'bgr_to_rgb': False}),
    ({}, IMAGENET),
    (EFFICIENTNET, {}),
    (dict(bgr_to_rgb=True), dict(rgb_to_bgr=False)),
    (dict(mean=[127], std=[128]), {**IMAGENET, 'bgr_to_rgb': False}),
]
# What each type of data preprocessor calls the values of its padding.
KINDS = dict(
    SegDataPreProcessor='pad_val',
    DetDataPreprocessor='pad_value',
    ImgDataPreprocessor='pad_value',
)
SHAPES = (64, 64), (48, 60), (33, 64)


def preprocessor(kind, padding=0, **normalization):
    cfg = dict(type=kind, **normalization, **{KINDS[kind]: padding})
    if kind == 'SegDataPreProcessor':
        return dict(cfg, _scope_='mmseg', size=(64, 64))
    scope = 'mmdet' if kind == 'DetDataPreprocessor' else 'mmengine'
    return dict(cfg, _scope_=scope, pad_size_divisor=32)


def build(student, teacher, **kwargs):
    """A student and a teacher with these data preprocessors."""
    detects = student['type'] == 'DetDataPreprocessor'
    make = detector if detects else cnn_segmentor
    return MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=dict(make(), data_preprocessor=student),
            teacher=dict(make(), data_preprocessor=teacher),
            distiller=dict(
                type='BCKDDistiller',
                context=dict(student='neck', teacher='neck'),
            ),
            **kwargs,
        )
    ).train()


def raw(kind, shapes=SHAPES):
    """Images and data samples as a data loader gives them."""
    torch.manual_seed(1)
    images = [
        torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
        for shape in shapes
    ]
    # In a student with mean 127 these look like its padding.
    for image in images:
        image[:, 5:9, 5:9] = 127
    samples = []
    for shape in shapes:
        meta = dict(img_shape=shape, ori_shape=shape)
        if kind == 'DetDataPreprocessor':
            truth = InstanceData(
                bboxes=torch.tensor([[4.0, 4, 30, 30]]),
                labels=torch.tensor([1]),
            )
            samples.append(DetDataSample(metainfo=meta, gt_instances=truth))
        else:
            side = shape if kind == 'SegDataPreProcessor' else (64, 64)
            truth = PixelData(data=torch.randint(0, 5, (1, *side)))
            samples.append(SegDataSample(metainfo=meta, gt_sem_seg=truth))
    return dict(inputs=images, data_samples=samples)


def seen_in_a_step(model, kind, shapes=SHAPES):
    """What the backbones of student and teacher get, and the losses."""
    seen = {}
    for who in ('student', 'teacher'):
        getattr(model, who).backbone.register_forward_pre_hook(
            lambda m, args, who=who: seen.__setitem__(who, args[0].clone())
        )
    data = model.data_preprocessor(raw(kind, shapes), True)
    losses = model(**data, mode='loss')
    return seen['student'], seen['teacher'], losses


def assert_same_images(actual, expected, std=(1.0,)):
    """To a ten-thousandth of a gray level."""
    levels = torch.tensor(std).view(-1, 1, 1)
    assert actual.shape == expected.shape
    assert ((actual - expected) * levels).abs().max() < 1e-4


@pytest.mark.parametrize('student, teacher', PAIRS)
@pytest.mark.parametrize('kind', KINDS)
def test_teacher_sees_what_its_own_preprocessor_makes(kind, student, teacher):
    model = build(
        preprocessor(kind, padding=0.1, **student),
        preprocessor(kind, padding=-3, **teacher),
    )
    assert model.teacher_forward == 'extract_feat'
    of_student, of_teacher, losses = seen_in_a_step(model, kind)
    expected = model.teacher.data_preprocessor(raw(kind), True)['inputs']
    assert_same_images(of_teacher, expected, teacher.get('std', (1.0,)))
    assert (of_teacher[1, :, 48:] == -3).all()
    assert torch.equal(
        of_student, model.student.data_preprocessor(raw(kind), True)['inputs']
    )
    assert losses['distill.loss_cd'] > 0


def test_pixels_that_look_like_the_padding_are_converted():
    """With mean 127 a gray pixel is 0, which is what the student pads."""
    kind = 'DetDataPreprocessor'
    model = build(
        preprocessor(kind, **EFFICIENTNET), preprocessor(kind, **IMAGENET)
    )
    of_student, of_teacher, _ = seen_in_a_step(model, kind)
    assert (of_student[..., 5:9, 5:9] == 0).all()
    assert (of_student[1, :, 48:] == 0).all()
    expected = model.teacher.data_preprocessor(raw(kind), True)['inputs']
    assert_same_images(of_teacher, expected, IMAGENET['std'])


def test_teacher_that_delivers_gets_its_own_normalization():
    kind = 'SegDataPreProcessor'
    model = MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=dict(
                cnn_segmentor(),
                data_preprocessor=preprocessor(kind, **IMAGENET),
            ),
            teacher=dict(
                cnn_segmentor(), data_preprocessor=preprocessor(kind, **CAFFE)
            ),
            distiller=dict(
                type='ConfigurableDistiller',
                distill_deliveries=dict(
                    fpn=dict(
                        type='MethodOutputs',
                        max_keep_data=1,
                        method_path='mmseg.models.necks.FPN.forward',
                    )
                ),
            ),
        )
    )
    of_student, of_teacher, _ = seen_in_a_step(model.train(), kind)
    expected = model.teacher.data_preprocessor(raw(kind), True)['inputs']
    assert_same_images(of_teacher, expected)
    expected = model.student.data_preprocessor(raw(kind), True)['inputs']
    assert torch.equal(of_student, expected)


@pytest.mark.parametrize('mode', ['extract_feat', 'tensor', 'loss'])
def test_however_the_teacher_runs(mode):
    kind = 'SegDataPreProcessor'
    model = build(
        preprocessor(kind, **IMAGENET),
        preprocessor(kind, **CAFFE),
        teacher_forward=mode,
    )
    of_teacher = seen_in_a_step(model, kind)[1]
    expected = model.teacher.data_preprocessor(raw(kind), True)['inputs']
    assert_same_images(of_teacher, expected)


def test_types_of_preprocessors_mix():
    model = build(
        preprocessor('SegDataPreProcessor', **IMAGENET),
        preprocessor('ImgDataPreprocessor', padding=2, **CAFFE),
    )
    of_teacher = seen_in_a_step(model, 'SegDataPreProcessor')[1]
    expected = model.teacher.data_preprocessor(
        raw('SegDataPreProcessor'), True
    )['inputs']
    assert_same_images(of_teacher, expected)


def test_images_of_another_channel_count_are_not_reversed():
    """As the preprocessors themselves do."""
    kind = 'SegDataPreProcessor'
    student = preprocessor(kind, mean=[1], std=[3], bgr_to_rgb=True)
    teacher = preprocessor(kind, mean=[5], std=[7])
    cfg = cnn_segmentor()
    cfg['backbone'] = dict(cfg['backbone'], in_channels=2)
    model = MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=dict(cfg, data_preprocessor=student),
            teacher=dict(cfg, data_preprocessor=teacher),
            distiller=dict(
                type='BCKDDistiller',
                context=dict(student='neck', teacher='neck'),
            ),
        )
    ).train()
    batch = raw(kind)
    batch['inputs'] = [image[:2] for image in batch['inputs']]
    expected = model.teacher.data_preprocessor(batch, True)['inputs']
    seen = []
    model.teacher.backbone.register_forward_pre_hook(
        lambda m, args: seen.append(args[0])
    )
    batch = raw(kind)
    batch['inputs'] = [image[:2] for image in batch['inputs']]
    model(**model.data_preprocessor(batch, True), mode='loss')
    assert_same_images(seen[0], expected, (7.0,))


def test_images_mixed_by_the_student_s_preprocessor_are_mixed_the_same_way():
    """A convex combination commutes with the normalization."""

    def mixup(inputs, data_samples):
        return 0.7 * inputs + 0.3 * inputs.flip(0), data_samples

    kind = 'SegDataPreProcessor'
    model = build(preprocessor(kind, **IMAGENET), preprocessor(kind, **CAFFE))
    shapes = (64, 64), (48, 60)
    expected = mixup(
        model.teacher.data_preprocessor(raw(kind, shapes), True)['inputs'],
        None,
    )[0]
    model.data_preprocessor.batch_augments = mixup
    of_teacher = seen_in_a_step(model, kind, shapes)[1]
    # Where an image is mixed with padding, this is what the student sees.
    assert_same_images(of_teacher[..., :48, :60], expected[..., :48, :60])
    mixed = of_teacher.flip(1) + torch.tensor(CAFFE['mean']).flip(0).view(
        1, 3, 1, 1
    )
    seen_by_student = seen_in_a_step(model, kind, shapes)[0]
    gray = seen_by_student * torch.tensor(IMAGENET['std']).view(
        1, 3, 1, 1
    ) + torch.tensor(IMAGENET['mean']).view(1, 3, 1, 1)
    assert_same_images(mixed, gray)


def test_padding_by_the_student_s_batch_augments():
    kind = 'DetDataPreprocessor'
    augments = [dict(type='BatchFixedSizePad', size=(96, 96))]
    model = build(
        preprocessor(kind, batch_augments=augments, **IMAGENET),
        preprocessor(kind, batch_augments=augments, **CAFFE),
    )
    of_teacher = seen_in_a_step(model, kind)[1]
    expected = model.teacher.data_preprocessor(raw(kind), True)['inputs']
    assert of_teacher.shape[-2:] == (96, 96)
    assert_same_images(of_teacher, expected)


class Messages(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)

    def about_teachers(self):
        return [
            r
            for r in self.records
            if r.getMessage().startswith('The teacher gets')
        ]


@pytest.fixture
def messages():
    logger = MMLogger.get_current_instance()
    handler = Messages()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def test_conversion_is_logged_once(messages):
    kind = 'SegDataPreProcessor'
    model = build(preprocessor(kind, **IMAGENET), preprocessor(kind, **CAFFE))
    for _ in range(2):
        seen_in_a_step(model, kind)
    (record,) = messages.about_teachers()
    for word in ('123.675', '58.395', '103.53', 'reversed'):
        assert word in record.getMessage()


def test_same_normalization_is_left_alone(messages):
    kind = 'DetDataPreprocessor'
    model = build(
        preprocessor(kind, **IMAGENET), preprocessor(kind, **IMAGENET)
    )
    of_student, of_teacher, _ = seen_in_a_step(model, kind)
    assert torch.equal(of_student, of_teacher)
    assert not messages.about_teachers()


def test_unknown_preprocessor_gets_the_student_s_batch_and_a_warning(messages):

    class Own(BaseDataPreprocessor):
        pass

    kind = 'SegDataPreProcessor'
    model = build(preprocessor(kind, **IMAGENET), Own())
    of_student, of_teacher, _ = seen_in_a_step(model, kind)
    assert torch.equal(of_student, of_teacher)
    (record,) = messages.about_teachers()
    assert record.levelno == logging.WARNING
    assert 'Own' in record.getMessage()
    assert kind in record.getMessage()
