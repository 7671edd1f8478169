"""The boundary term by class labels: mmseg's, mmdet's, and what they need."""

import os.path as osp

import mmdet
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import PixelData
from mmrazor.registry import MODELS

from mmbckd.functional import boundary_affinity_loss
from tests.detectors import detector, rectangle, sample
from tests.segmentors import batch, cnn_segmentor


def build(architecture, **distiller):
    return MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=architecture,
            teacher=architecture,
            distiller=dict(
                type='BCKDDistiller',
                boundary=dict(student='backbone', source='label'),
                **distiller,
            ),
        )
    )


def panoptic_fpn():
    """mmdet's own, with a backbone of an eighth of the width."""
    model = Config.fromfile(
        osp.join(
            osp.dirname(mmdet.__file__),
            '.mim',
            'configs',
            'panoptic_fpn',
            'panoptic-fpn_r50_fpn_1x_coco.py',
        )
    ).model
    model._scope_ = 'mmdet'
    model.backbone.update(
        depth=18, base_channels=8, frozen_stages=-1, init_cfg=None
    )
    model.neck.in_channels = [8, 16, 32, 64]
    return model


def semantic_sample(shape, labels):
    """A data sample of mmdet's panoptic data, with a thing of class 0."""
    result = sample([rectangle(shape, 8, 8, 40, 30)])
    result.gt_sem_seg = PixelData(sem_seg=labels)
    return result


def boundary_map(model):
    """A list that gets the student's boundary map of each step."""
    seen = []
    model.distiller.connectors['boundary_head'].register_forward_hook(
        lambda module, inputs, output: seen.append(output.detach())
    )
    return seen


def images_of(samples):
    return [
        torch.randint(0, 256, (3, *each.img_shape), dtype=torch.uint8)
        for each in samples
    ]


def test_panoptic_fpn_learns_from_its_semantic_map():
    model = build(panoptic_fpn())
    model.train()
    seen = boundary_map(model)
    shapes = (64, 64), (48, 60)
    truths = [
        torch.randint(80, 133, (1, *shape), dtype=torch.uint8)
        for shape in shapes
    ]
    samples = [
        semantic_sample(shape, truth) for shape, truth in zip(shapes, truths)
    ]
    data = model.data_preprocessor(
        dict(inputs=images_of(samples), data_samples=samples), True
    )
    losses = model(**data, mode='loss')
    assert 'student.loss_seg' in losses
    padded = torch.full((2, *data['inputs'].shape[-2:]), 255)
    for labels, truth in zip(padded, truths):
        labels[: truth.shape[1], : truth.shape[2]] = truth[0]
    expected = boundary_affinity_loss(seen[0], padded, source='label')
    assert torch.equal(losses['distill.loss_bd'], expected)
    losses['distill.loss_bd'].backward()


def test_maps_that_the_preprocessor_leaves_are_ignored_outside_the_image():
    """Without `pad_seg`, mmdet pads the images only."""
    model = build(detector())
    model.train()
    seen = boundary_map(model)
    shapes = (64, 64), (40, 60)
    truths = [torch.randint(0, 5, (1, *shape)) for shape in shapes]
    samples = [
        semantic_sample(shape, truth) for shape, truth in zip(shapes, truths)
    ]
    data = model.data_preprocessor(
        dict(inputs=images_of(samples), data_samples=samples), True
    )
    losses = model(**data, mode='loss')
    padded = torch.full((2, 64, 64), 255)
    padded[0], padded[1, :40, :60] = truths[0], truths[1]
    expected = boundary_affinity_loss(seen[0], padded, source='label')
    assert torch.equal(losses['distill.loss_bd'], expected)


def test_maps_of_a_lower_resolution_are_taken_as_they_are():
    model = build(cnn_segmentor())
    model.train()
    seen = boundary_map(model)
    images, samples = batch()
    for each in samples:
        each.gt_sem_seg = PixelData(data=torch.randint(0, 5, (1, 32, 32)))
    losses = model(images, samples, mode='loss')
    labels = torch.cat([each.gt_sem_seg.data for each in samples])
    expected = boundary_affinity_loss(seen[0], labels, source='label')
    assert torch.equal(losses['distill.loss_bd'], expected)


def test_truth_without_a_map_says_which_fields_it_has():
    model = build(cnn_segmentor())
    model.train()
    samples = [
        DetDataSample(
            metainfo=dict(img_shape=(64, 64)),
            gt_sem_seg=PixelData(depth=torch.zeros(1, 64, 64)),
        )
    ]
    with pytest.raises(ValueError, match="'data'.*'sem_seg'.*'depth'"):
        model(torch.zeros(1, 3, 64, 64), samples, mode='loss')


def test_maps_of_several_sizes_are_told_to_be_padded():
    model = build(cnn_segmentor())
    model.train()
    images, samples = batch()
    samples[1].gt_sem_seg = PixelData(data=torch.zeros(1, 32, 40).long())
    with pytest.raises(ValueError, match='one size.*64.*32, 40.*pad_seg'):
        model(images, samples, mode='loss')


def fails(*args, **kwargs):
    raise AssertionError('the teacher ran')


def test_teacher_does_not_run_when_nothing_of_it_is_used():
    model = build(cnn_segmentor())
    model.train()
    model.teacher.backbone.forward = fails
    assert model(*batch(), mode='loss')['distill.loss_bd'] > 0


@pytest.mark.parametrize('used', [
    dict(context=dict(student='neck', teacher='neck')),
    dict(
        distill_deliveries=dict(
            fpn=dict(
                type='MethodOutputs',
                max_keep_data=1,
                method_path='mmseg.models.necks.FPN.forward'))),
    dict(teacher_recorders=dict(
        neck=dict(type='ModuleOutputs', source='neck')))
], ids=lambda used: next(iter(used)))  # yapf: disable
def test_teacher_runs_when_something_of_it_is_used(used):
    model = build(cnn_segmentor(), **used)
    model.train()
    model.teacher.backbone.forward = fails
    with pytest.raises(AssertionError, match='the teacher ran'):
        model(*batch(), mode='loss')
