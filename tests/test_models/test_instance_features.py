"""Context distillation on the boxes of the truth."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from mmrazor.registry import MODELS

from tests.detectors import detector, mask_detector, rectangle, sample

BOXES = dict(type='InstanceFeatures')
TAU = 0.3
SIZE = 64


def build(student=None, teacher=None, **context):
    model = MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=student or mask_detector(),
            teacher=teacher or mask_detector(),
            distiller=dict(
                type='BCKDDistiller',
                context=dict(student=BOXES, teacher=BOXES, tau=TAU, **context),
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


def around(box):
    """A box and the eight that are shifted by a quarter of its sides."""
    left, top, right, bottom = box
    x, y = (right - left) / 4, (bottom - top) / 4
    return [
        [left + i * x, top + j * y, right + i * x, bottom + j * y]
        for i, j in product((-1, 0, 1), repeat=2)
    ]


def relations(model, images, samples):
    """Cosines of the features of all boxes, by the head's own layers."""
    features = []
    for image, data_sample in zip(images, samples):
        maps = model.extract_feat(image[None])
        boxes = [
            box
            for truth in data_sample.gt_instances.bboxes.tolist()
            for box in around(truth)
        ]
        rois = torch.tensor([[0, *box] for box in boxes])
        head = model.roi_head
        x = head.bbox_roi_extractor(
            maps[: head.bbox_roi_extractor.num_inputs], rois
        ).flatten(1)
        for layer in head.bbox_head.shared_fcs:
            x = layer(x).relu()
        features.append(x)
    f = F.normalize(torch.cat(features))
    return f @ f.T


def test_loss_compares_the_relations_of_the_same_boxes():
    model = build()
    images, samples = batch()
    # So that batch norms do not make two forwards differ.
    model.student.eval()
    loss = model(images, samples, mode='loss')['distill.loss_cd']
    student = relations(model.student, images, samples) / TAU
    with torch.no_grad():
        teacher = relations(model.teacher, images, samples) / TAU
    assert student.shape == (27, 27)
    expected = F.kl_div(
        student.log_softmax(1),
        teacher.log_softmax(1),
        reduction='batchmean',
        log_target=True,
    )
    torch.testing.assert_close(loss, expected)
    assert loss > 0

    def gradients(of):
        weights = [
            model.student.backbone.conv1.weight,
            model.student.roi_head.bbox_head.shared_fcs[1].weight,
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
    monkeypatch.setattr(model.teacher.roi_head.mask_head, 'forward', refuse)
    losses = model(*batch(), mode='loss')
    sum(v for k, v in losses.items() if 'loss' in k and 'cd' in k).backward()
    assert all(p.grad is None for p in model.teacher.parameters())


@pytest.mark.parametrize('max_tokens', [None, 100])
def test_batch_without_an_instance_has_a_loss_of_0(max_tokens):
    images, samples = batch()
    blank = sample([], labels=[], shape=(SIZE, SIZE))
    blank.gt_instances.bboxes = torch.zeros(0, 4)
    for data_sample in samples:
        data_sample.gt_instances = blank.gt_instances
    losses = build(max_tokens=max_tokens)(images, samples, mode='loss')
    assert losses['distill.loss_cd'] == 0
    losses['distill.loss_cd'].backward()


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_several_box_heads_are_refused(side):
    cfg = dict(student=mask_detector(), teacher=mask_detector())
    roi_head = cfg[side].roi_head
    roi_head.type = 'CascadeRoIHead'
    roi_head.num_stages, roi_head.stage_loss_weights = 1, [1.0]
    cfg[side].train_cfg.rcnn = [cfg[side].train_cfg.rcnn]
    with pytest.raises(ValueError, match='"roi_head" .*one box head.*Cascade'):
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
