"""Distillation from a teacher that classifies masks by queries."""

from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmrazor.registry import MODELS

from mmbckd.functional import (
    pixel_wise_divergence,
    relation_kl,
    semantic_affinity_loss,
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
