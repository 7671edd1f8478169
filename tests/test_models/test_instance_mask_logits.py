"""Boundary distillation on the masks of a RoI head."""

import pytest
import torch
from mmengine.structures import InstanceData
from mmrazor.registry import MODELS

from mmbckd.functional import semantic_affinity_loss
from mmbckd.models.task_modules import InstanceMaskLogitsRecorder
from tests.detectors import detector, mask_detector, rectangle, sample

MASKS = dict(type='InstanceMaskLogits')
SIZE = 64


def build(student=None, teacher=None):
    model = MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=student or mask_detector(),
            teacher=teacher or mask_detector(),
            distiller=dict(
                type='BCKDDistiller',
                boundary=dict(
                    type='SemanticAffinityLoss', student=MASKS, teacher=MASKS
                ),
            ),
        )
    )
    model.init_weights()
    return model.train()


def batch():
    """Two images, one with two instances and one with one."""
    shape = (SIZE, SIZE)
    samples = [
        sample(
            [
                rectangle(shape, 5, 8, 45, 28),
                rectangle(shape, 20, 25, 60, 55),
            ],
            labels=[3, 0],
        ),
        sample([rectangle(shape, 2, 2, 32, 52)], labels=[1]),
    ]
    for data_sample in samples:
        data_sample.set_metainfo(
            dict(batch_input_shape=shape, pad_shape=shape)
        )
    torch.manual_seed(0)
    return torch.randn(2, 3, *shape), samples


def larger(left, top, right, bottom):
    x, y = (right - left) / 10, (bottom - top) / 10
    return [
        max(left - x, 0),
        max(top - y, 0),
        min(right + x, SIZE),
        min(bottom + y, SIZE),
    ]


def mask_logits(model, images, samples):
    """By the head's public call on proposals, which are the true boxes made
    larger by a fifth."""
    boxes = [
        InstanceData(
            bboxes=torch.tensor(
                [
                    larger(*box)
                    for box in data_sample.gt_instances.bboxes.tolist()
                ]
            )
        )
        for data_sample in samples
    ]
    masks = model.roi_head(model.extract_feat(images), boxes)[-1]
    labels = [int(label) for s in samples for label in s.gt_instances.labels]
    one_a_box = torch.stack(
        [m[min(label, len(m) - 1)] for m, label in zip(masks, labels)]
    )
    # Of two classes with the probabilities 1 - sigmoid and sigmoid.
    return torch.stack([torch.zeros_like(one_a_box), one_a_box], dim=1)


@pytest.mark.parametrize('class_agnostic', [False, True])
def test_loss_compares_the_masks_of_the_same_boxes(class_agnostic):
    teacher = mask_detector()
    teacher.roi_head.mask_head.class_agnostic = class_agnostic
    model = build(teacher=teacher)
    images, samples = batch()
    # So that batch norms do not make two forwards differ.
    model.student.eval()
    loss = model(images, samples, mode='loss')['distill.loss_bd']
    expected = semantic_affinity_loss(
        mask_logits(model.student, images, samples),
        mask_logits(model.teacher, images, samples),
    )
    torch.testing.assert_close(loss, expected)
    assert loss > 0

    def gradients(of):
        weights = [
            model.student.backbone.conv1.weight,
            model.student.roi_head.mask_head.convs[0].conv.weight,
        ]
        return torch.autograd.grad(of, weights)

    for got, want in zip(gradients(loss), gradients(expected)):
        torch.testing.assert_close(got, want)
        assert want.any()


def test_teacher_proposes_nothing(monkeypatch):
    model = build()
    assert model.teacher_forward == 'extract_feat'

    def refuse(*args, **kwargs):
        raise AssertionError('the teacher runs more than it has to')

    monkeypatch.setattr(model.teacher.rpn_head, 'forward', refuse)
    monkeypatch.setattr(model.teacher.roi_head.bbox_head, 'forward', refuse)
    losses = model(*batch(), mode='loss')
    sum(v for k, v in losses.items() if 'loss' in k and 'bd' in k).backward()
    assert all(p.grad is None for p in model.teacher.parameters())


def test_batch_without_an_instance_has_a_loss_of_0():
    images, samples = batch()
    blank = sample([], labels=[], shape=(SIZE, SIZE))
    blank.gt_instances.bboxes = torch.zeros(0, 4)
    for data_sample in samples:
        data_sample.gt_instances = blank.gt_instances
    losses = build()(images, samples, mode='loss')
    assert losses['distill.loss_bd'] == 0
    losses['distill.loss_bd'].backward()


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_detector_without_masks_is_refused(side):
    cfg = dict(student=mask_detector(), teacher=mask_detector())
    del cfg[side].roi_head.mask_head
    del cfg[side].roi_head.mask_roi_extractor
    with pytest.raises(ValueError, match='"roi_head" .*one mask head'):
        build(**cfg)


def test_detector_without_roi_head_is_refused():
    with pytest.raises(ValueError, match='has no module "roi_head"'):
        build(teacher=detector())


def test_batch_without_truth_is_refused():
    images, samples = batch()
    model = build()
    del samples[1].gt_instances.bboxes
    with pytest.raises(ValueError, match='`gt_instances` in the batch'):
        model(images, samples, mode='loss')


def test_boxes_are_not_made_smaller():
    with pytest.raises(ValueError, match='`scale` .*at least 1, but got 0.5'):
        InstanceMaskLogitsRecorder(scale=0.5)
