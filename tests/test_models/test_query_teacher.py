"""Distillation from a teacher that classifies masks by queries."""

from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmrazor.registry import MODELS

from mmbckd.functional import (
    boundary_affinity_loss,
    mask_query_logits,
    pixel_wise_divergence,
    relation_kl,
    semantic_affinity_loss,
)
from tests.detectors import (
    mask_detector,
    query_detector,
    rectangle,
    sample,
)
from tests.segmentors import NUM_CLASSES, batch, cnn_segmentor, query_segmentor

QUERIES = dict(type='MaskClassLogits', source='decode_head')
CLASSIFIER = 'decode_head.conv_seg'


def build(teacher=None, source=QUERIES, num_classes=NUM_CLASSES):
    model = MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=cnn_segmentor(num_classes=num_classes),
            teacher=teacher or query_segmentor(),
            distiller=dict(
                type='BCKDDistiller',
                boundary=dict(
                    type='SemanticAffinityLoss',
                    student=CLASSIFIER,
                    teacher=source,
                ),
                context=dict(student=CLASSIFIER, teacher=source),
                logits=dict(teacher=source),
            ),
        )
    )
    model.init_weights()
    return model.train()


def posteriors(teacher, images):
    """What mmseg segments by, at the size of the masks, each pixel's divided
    by their sum."""
    meta = dict(img_shape=(16, 16), ori_shape=(16, 16))
    with torch.no_grad():
        scores = teacher.decode_head.predict(
            teacher.extract_feat(images), [meta] * len(images), None
        )
    return scores / scores.sum(dim=1, keepdim=True)


def test_losses_compare_what_mmseg_segments_by():
    """Every loss is that of the logarithms of mmseg's own scores; the context
    term, of logits, is that of those of mean 0."""
    model = build()
    # So that queries differ in their classes, and pixels in their queries.
    head = model.teacher.decode_head
    head.cls_embed.weight.data *= 10
    head.mask_embed[-1].weight.data *= 100
    images, samples = batch()
    seen = []
    model.student.decode_head.conv_seg.register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    losses = model(images, samples, mode='loss')
    (student,) = seen
    p = posteriors(model.teacher, images)
    assert p.std(dim=(2, 3)).max() > 0.1
    log_p = p.log()
    for name, expected in (
        ('loss_bd', semantic_affinity_loss(student, log_p)),
        ('loss_kd', pixel_wise_divergence(student, log_p)),
        (
            'loss_cd',
            relation_kl(student, log_p - log_p.mean(dim=1, keepdim=True)),
        ),
    ):
        torch.testing.assert_close(
            losses[f'distill.{name}'], expected, rtol=1e-4, atol=0
        )
        assert expected > 0


def test_teacher_needs_no_truth_and_computes_no_loss(monkeypatch):
    model = build()
    images, samples = batch()

    def refuse(*args, **kwargs):
        raise AssertionError('the teacher computes a loss')

    monkeypatch.setattr(model.teacher.decode_head, 'loss', refuse)
    losses = model(images, samples, mode='loss')
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert model.student.backbone.stem[0].weight.grad.any()


@pytest.mark.parametrize(
    'config',
    [
        'maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py',
        'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
    ],
)
def test_recorded_logits_segment_as_upstreams_heads(config):
    """With a teacher that runs as the distillation runs it."""
    upstream = Config.fromfile(
        Path(mmseg.__file__).parent / '.mim/configs' / config
    )
    upstream.model.backbone.init_cfg = None
    model = build(teacher=upstream.model, num_classes=150)
    assert model.teacher_forward == 'decode_head'
    images, samples = batch(num_classes=150)
    recorder = model.distiller.teacher_recorders.get_recorder('logits_teacher')
    model.run_teacher(images, samples)
    (logits,) = recorder.data_buffer
    inputs = model.teacher_inputs(images, samples)
    expected = posteriors(model.teacher, inputs)
    torch.testing.assert_close(logits.softmax(dim=1), expected)


def test_module_without_queries_is_refused():
    model = build(
        teacher=cnn_segmentor(base_channels=16),
        source=dict(type='MaskClassLogits', source=CLASSIFIER),
    )
    with pytest.raises(ValueError, match='got Tensor of Conv2d. Name the'):
        model(*batch(), mode='loss')


# Instances


INSTANCES = dict(type='MaskQueryLogits', source='panoptic_head')


def build_detectors(teacher, source=INSTANCES):
    model = MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=mask_detector(),
            teacher=teacher,
            distiller=dict(
                type='BCKDDistiller',
                boundary=dict(student='backbone', teacher=source),
                context=dict(
                    student=dict(
                        type='ModuleOutputs', source='neck', data_idx=0
                    ),
                    teacher=dict(
                        type='ModuleOutputs',
                        source='panoptic_head.pixel_decoder',
                        data_idx=0,
                    ),
                ),
            ),
        )
    )
    model.init_weights()
    return model.train()


def detection_batch(model):
    shape = (60, 64)
    samples = [
        sample(
            [rectangle(shape, 8, 8, 40, 24), rectangle(shape, 8, 24, 40, 44)]
        ),
        sample([rectangle((48, 64), 20, 4, 44, 30)], labels=[3]),
    ]
    images = [
        torch.randint(0, 256, (3, *each.img_shape), dtype=torch.uint8)
        for each in samples
    ]
    return model.data_preprocessor(
        dict(inputs=images, data_samples=samples), True
    )


def test_student_learns_which_pixels_share_an_instance(monkeypatch):
    """A step of Mask R-CNN: the loss is that of what mmdet's own prediction
    finds, no loss of the teacher is computed, and the student's first layer
    learns of both terms."""
    model = build_detectors(query_detector())
    assert model.teacher_forward == 'panoptic_head'
    head = model.teacher.panoptic_head
    # So that queries differ in what they are, and pixels in their queries.
    head.cls_embed.weight.data *= 10
    head.mask_embed[-1].weight.data *= 100

    def refuse(*args, **kwargs):
        raise AssertionError('the teacher computes a loss')

    monkeypatch.setattr(head, 'loss', refuse)
    boundaries = []
    model.distiller.connectors['boundary_head'].register_forward_hook(
        lambda module, inputs, output: boundaries.append(output.detach())
    )
    data = detection_batch(model)
    losses = model(**data, mode='loss')
    inputs = model.teacher_inputs(data['inputs'], data['data_samples'])
    with torch.no_grad():
        classes, masks = model.teacher(
            inputs, data['data_samples'], mode='tensor'
        )
    instances = mask_query_logits(classes[-1], masks[-1])
    assert instances.shape == (2, 8, 16, 16)
    assert instances.softmax(dim=1).std(dim=(2, 3)).max() > 0.1
    torch.testing.assert_close(
        losses['distill.loss_bd'],
        boundary_affinity_loss(boundaries[0], instances),
    )
    first = model.student.backbone.conv1.weight
    for name in ('distill.loss_bd', 'distill.loss_cd'):
        assert losses[name] > 0
        (gradient,) = torch.autograd.grad(
            losses[name], first, retain_graph=True
        )
        assert gradient.isfinite().all() and gradient.any()
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is None for p in model.teacher.parameters())


def test_instances_of_what_has_no_queries_are_refused():
    model = build_detectors(
        query_detector(),
        source=dict(type='MaskQueryLogits', source='backbone.conv1'),
    )
    with pytest.raises(ValueError, match='MaskQueryLogits, but got Tensor of'):
        model(**detection_batch(model), mode='loss')
