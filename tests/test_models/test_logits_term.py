"""The ``logits`` key of BCKDDistiller's short form."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmrazor.models.losses import ATLoss, ChannelWiseDivergence
from mmrazor.registry import MODELS

from mmbckd.functional import pixel_wise_divergence
from tests.detectors import detector, rectangle, sample
from tests.segmentors import batch, cnn_segmentor, dilated_segmentor

CONV_SEG = dict(type='ModuleOutputs', source='decode_head.conv_seg')


def build(student=None, teacher=None, **distiller):
    distiller.setdefault('type', 'BCKDDistiller')
    return MODELS.build(
        dict(
            type='mmrazor.FrozenTeacherDistill',
            architecture=student or cnn_segmentor(),
            teacher=teacher or cnn_segmentor(base_channels=16),
            distiller=distiller,
        )
    )


def losses_and_logits(model, data):
    """Losses of a training step, and what both classifiers put out."""
    seen = []
    for part in (model.teacher, model.student):
        part.decode_head.conv_seg.register_forward_hook(
            lambda module, inputs, output: seen.append(output)
        )
    model.train()
    losses = model(*data, mode='loss')
    teacher, student = seen
    return losses, student, teacher


def test_default_is_per_pixel_distillation_of_the_classifiers_outputs():
    model = build(logits=dict())
    losses, student, teacher = losses_and_logits(model, batch())
    expected = pixel_wise_divergence(student, teacher)
    assert torch.equal(losses['distill.loss_kd'], expected) and expected > 0
    expected.backward()
    assert model.student.backbone.stem[0].weight.grad.any()


def test_tau_and_weight_reach_the_loss():
    model = build(logits=dict(tau=4.0, loss_weight=0.5))
    losses, student, teacher = losses_and_logits(model, batch())
    assert torch.equal(
        losses['distill.loss_kd'],
        0.5 * pixel_wise_divergence(student, teacher, tau=4.0),
    )


def test_a_loss_of_mmrazor_is_that_of_the_long_form_to_the_bit():
    cwd = dict(type='ChannelWiseDivergence', tau=2.0, loss_weight=5.0)
    long = build(
        type='ConfigurableDistiller',
        student_recorders=dict(logits=CONV_SEG),
        teacher_recorders=dict(logits=CONV_SEG),
        distill_losses=dict(loss_cwd=cwd),
        loss_forward_mappings=dict(
            loss_cwd=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                preds_T=dict(from_student=False, recorder='logits'),
            )
        ),
    )
    short = build(logits=cwd)
    short.load_state_dict(long.state_dict())
    data = batch()
    results = []
    for model in (short, long):
        torch.manual_seed(1)
        model.train()
        results.append(model(*data, mode='loss'))
    assert results[0].keys() == results[1].keys()
    for key, loss in results[0].items():
        assert torch.equal(loss, results[1][key]), key


def test_any_loss_gets_logits_of_one_size():
    """Of strides 8 and 4, those of stride 4 are resized."""
    model = build(
        student=dilated_segmentor(), logits=dict(type='ChannelWiseDivergence')
    )
    losses, student, teacher = losses_and_logits(model, batch())
    assert student.shape[-2:] == (8, 8) and teacher.shape[-2:] == (16, 16)
    resized = F.interpolate(teacher, size=(8, 8), mode='bilinear')
    expected = ChannelWiseDivergence()(student, resized)
    assert torch.equal(losses['distill.loss_cwd'], expected)


def test_pixels_are_the_samples_of_dist():
    """Its definition, pixel by pixel and class by class, by NumPy."""
    model = build(logits=dict(type='DISTLoss', loss_weight=0.5))
    losses, student, teacher = losses_and_logits(model, batch())
    p, q = (
        x.detach().double().softmax(1).movedim(1, -1).flatten(0, -2).numpy()
        for x in (student, teacher)
    )

    def distance(a, b):
        rows = [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b)]
        return 1 - np.mean(rows)

    expected = 0.5 * (distance(p, q) + distance(p.T, q.T))
    got = losses['distill.loss_logits'].item()
    assert got == pytest.approx(expected, rel=1e-4)


def test_losses_of_features_get_student_and_teacher_in_their_order():
    model = build(logits=dict(type='ATLoss'))
    losses, student, teacher = losses_and_logits(model, batch())
    expected = ATLoss()(student, teacher)
    assert torch.equal(losses['distill.loss_logits'], expected)


@pytest.mark.parametrize(
    'kind, name',
    [
        ('KLDivergence', 'loss_kd'),
        ('mmrazor.KLDivergence', 'loss_kd'),
        ('PKDLoss', 'loss_logits'),
    ],
)
def test_the_name_in_the_log_follows_the_type(kind, name):
    distiller = build(logits=dict(type=kind)).distiller
    assert list(distiller.distill_losses) == [name]


def test_it_stands_beside_the_other_terms():
    feature = dict(type='ModuleInputs', source='decode_head.conv_seg')
    model = build(
        boundary=dict(student='backbone', teacher='decode_head.conv_seg'),
        context=dict(student=feature, teacher=feature),
        logits=dict(type='ChannelWiseDivergence'),
    )
    model.train()
    losses = model(*batch(), mode='loss')
    assert {name for name in losses if name.startswith('distill.')} == {
        'distill.loss_bd',
        'distill.loss_cd',
        'distill.loss_cwd',
    }


def test_a_level_of_a_detectors_classifier_is_a_map():
    classifier = dict(
        type='ModuleOutputs', source='bbox_head.retina_cls', record_idx=1
    )
    model = build(
        detector(),
        detector(base_channels=16),
        logits=dict(student=classifier, teacher=classifier),
    )
    model.train()
    shape = (64, 64)
    truth = sample([rectangle(shape, 8, 8, 40, 40)], labels=[1])
    truth.set_metainfo(dict(pad_shape=shape, batch_input_shape=shape))
    losses = model(torch.randn(1, 3, *shape), [truth], mode='loss')
    loss = losses['distill.loss_kd']
    loss.backward()
    assert loss > 0 and model.student.backbone.conv1.weight.grad.any()


@pytest.mark.parametrize(
    'logits, words',
    [
        (dict(temperature=2), ['temperature', 'tau', 'loss_weight']),
        (dict(type='ChannelWiseDivergance'), ['ChannelWiseDivergance']),
        (dict(type='DKDLoss'), ['DKDLoss', 'preds_S', 'gt_labels']),
        (dict(student='decode_head.conv_sag'), ["'decode_head.conv_seg'"]),
    ],
)
def test_a_wrong_short_form_says_what_is_wrong(logits, words):
    with pytest.raises(ValueError) as error:
        build(logits=logits)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    'student, error, message',
    [
        ('neck.fpn_convs.0', ValueError, 'as many classes.*16 and 5'),
        ('neck', TypeError, 'floating.*tuple of several.*by `data_idx`'),
        ('decode_head', RuntimeError, "did not run.*'decode_head.conv_seg'"),
    ],
)
@pytest.mark.parametrize('kind', ['PixelWiseDivergence', 'KLDivergence'])
def test_what_are_no_logits_of_the_same_classes_is_refused(
    student, error, message, kind
):
    model = build(logits=dict(student=student, type=kind))
    model.train()
    with pytest.raises(error, match=message):
        model(*batch(), mode='loss')
