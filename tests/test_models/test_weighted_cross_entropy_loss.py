"""The task's loss with class weights, and the tool that computes them."""

import numpy as np
import pytest
import torch
from mmseg.registry import MODELS

from mmbckd.models import WeightedCrossEntropyLoss
from tests.segmentors import batch, cnn_segmentor

WEIGHTS = [0.5, 2.0, 1.0, 4.0]


def logits_and_labels(ignored=0.2):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 5, generator=generator, dtype=torch.double)
    labels = torch.randint(4, (2, 6, 5), generator=generator)
    labels[torch.rand(2, 6, 5, generator=generator) < ignored] = 255
    return logits, labels


def weighted_mean(logits, labels, pixel_weights=None) -> float:
    """The definition, pixel by pixel."""
    total = norm = 0.0
    for n, y, x in np.ndindex(*labels.shape):
        label = int(labels[n, y, x])
        if label == 255:
            continue
        weight = WEIGHTS[label]
        if pixel_weights is not None:
            weight *= float(pixel_weights[n, y, x])
        exponents = np.exp(logits[n, :, y, x].numpy())
        total -= weight * np.log(exponents[label] / exponents.sum())
        norm += weight
    return total / norm


def test_loss_is_the_weighted_mean_over_labeled_pixels():
    logits, labels = logits_and_labels()
    loss = WeightedCrossEntropyLoss(WEIGHTS, loss_weight=3.0)(logits, labels)
    assert loss.item() == pytest.approx(3 * weighted_mean(logits, labels))


def test_weights_of_a_pixel_sampler_count_as_well():
    logits, labels = logits_and_labels()
    pixel_weights = torch.rand(labels.shape)
    loss = WeightedCrossEntropyLoss(WEIGHTS)(logits, labels, pixel_weights)
    assert loss.item() == pytest.approx(
        weighted_mean(logits, labels, pixel_weights), rel=1e-6
    )


def test_image_without_labels_costs_nothing_and_teaches_nothing():
    logits, labels = logits_and_labels(ignored=1.1)
    logits.requires_grad_()
    loss = WeightedCrossEntropyLoss(WEIGHTS)(logits, labels)
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_head_of_mmseg_trains_with_it_on_labels_with_ignored_pixels():
    cfg = cnn_segmentor()
    images, samples = batch()
    samples[0].gt_sem_seg.data[..., :5] = 255
    cfg['decode_head']['loss_decode'] = dict(
        type='WeightedCrossEntropyLoss',
        class_weight=[1.0] * cfg['decode_head']['num_classes'],
    )
    model = MODELS.build(cfg)
    losses = model(images, samples, mode='loss')
    losses['decode.loss_ce'].backward()
    assert model.decode_head.conv_seg.weight.grad.abs().sum() > 0
    # They are part of the config, not of a checkpoint.
    assert not [k for k in model.state_dict() if 'class_weight' in k]


@pytest.mark.parametrize(
    'weights', [[1.0, -1.0], [0.0, 0.0], [1.0, float('inf')], []]
)
def test_weights_that_cannot_weigh_are_refused(weights):
    with pytest.raises(ValueError, match='class_weight'):
        WeightedCrossEntropyLoss(weights)


def test_other_number_of_classes_is_refused():
    logits, labels = logits_and_labels()
    with pytest.raises(ValueError, match='4 classes predicted, but got 2'):
        WeightedCrossEntropyLoss([1.0, 1.0])(logits, labels)


@pytest.fixture
def tool(monkeypatch):
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / 'tools'))
    import class_weights

    return class_weights


def test_median_frequency_by_hand(tool):
    # Class 0: 6 of the 12 pixels of both; 1: 4 of 12; 2: 2 of the 6 labeled
    # pixels of the second image only.
    maps = [
        np.array([[0, 0, 0, 0, 1, 1]]),
        np.array([[0, 0, 1, 2, 2, 1, 255]]),
    ]
    found = tool.median_frequency_weights(maps, 3)
    frequency = np.array([6 / 12, 4 / 12, 2 / 6])
    weights = np.median(frequency) / frequency
    assert found == pytest.approx(weights)
    root = tool.median_frequency_weights(maps, 3, power=0.5)
    assert np.square(root) == pytest.approx(weights)


def test_class_that_does_not_occur_is_named(tool):
    with pytest.raises(ValueError, match=r'\[2\] do not occur'):
        tool.median_frequency_weights([np.array([[0, 1, 255]])], 3)
