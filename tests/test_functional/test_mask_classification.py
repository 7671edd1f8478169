"""Posteriors of classes and of instances against their definitions, pixel by
pixel in float64."""

import itertools
import math
from operator import mul

import pytest
import torch

from mmbckd.functional import (
    boundary_affinity_loss,
    mask_class_logits,
    mask_query_logits,
)


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=dtype)


def posterior(class_logits, mask_logits, y, x):
    """p(c) of a pixel of one image."""
    sums = [0.0] * (class_logits.shape[1] - 1)
    for logits, mask in zip(class_logits.tolist(), mask_logits):
        total = sum(math.exp(v) for v in logits)
        inside = 1 / (1 + math.exp(-mask[y, x].item()))
        for c in range(len(sums)):
            sums[c] += math.exp(logits[c]) / total * inside
    return [s / sum(sums) for s in sums]


def test_softmax_is_the_posterior_by_the_definition():
    class_logits, mask_logits = random(2, 6, 4), random(2, 6, 3, 5, seed=1)
    logits = mask_class_logits(class_logits, mask_logits)
    p = logits.softmax(dim=1)
    for n in range(2):
        for y in range(3):
            for x in range(5):
                expected = posterior(class_logits[n], mask_logits[n], y, x)
                assert p[n, :, y, x].tolist() == pytest.approx(expected)
    assert logits.mean(dim=1).abs().max() < 1e-12


def test_logits_are_finite_where_no_query_has_a_pixel_or_a_class():
    class_logits = torch.tensor([[[300.0, -300.0, 0.0]]])
    mask_logits = torch.tensor([[[[-300.0, 300.0]]]])
    logits = mask_class_logits(class_logits, mask_logits)
    assert logits.isfinite().all()
    # Nothing is known of the first pixel, all of the second.
    assert logits.softmax(dim=1)[0, 0, 0].tolist() == [0.5, 1.0]


def instance_posterior(class_logits, mask_logits, y, x):
    """p of no instance and of every query's, at a pixel of one image: over all
    2^Q outcomes of independent queries, of those with one object at most."""
    covers = []
    for logits, mask in zip(class_logits.tolist(), mask_logits):
        nothing = math.exp(logits[-1]) / sum(math.exp(v) for v in logits)
        inside = 1 / (1 + math.exp(-mask[y, x].item()))
        covers.append((1 - nothing) * inside)
    p = [0.0] * (1 + len(covers))
    for outcome in itertools.product((False, True), repeat=len(covers)):
        if sum(outcome) > 1:
            continue
        which = 1 + outcome.index(True) if any(outcome) else 0
        p[which] += math.prod(
            s if covered else 1 - s for s, covered in zip(covers, outcome)
        )
    return [each / sum(p) for each in p]


@pytest.mark.parametrize('num_classes', [1, 3])
def test_softmax_over_queries_is_the_posterior_by_the_definition(num_classes):
    class_logits = random(2, 6, num_classes + 1)
    mask_logits = random(2, 6, 3, 5, seed=1)
    p = mask_query_logits(class_logits, mask_logits).softmax(dim=1)
    assert p.shape == (2, 7, 3, 5)
    for n, y, x in itertools.product(range(2), range(3), range(5)):
        expected = instance_posterior(class_logits[n], mask_logits[n], y, x)
        assert p[n, :, y, x].tolist() == pytest.approx(expected)


def test_loss_is_that_of_the_probability_to_share_an_instance():
    """The whole way from queries to the boundary loss, pair by pair; between
    neighbors a line has two pixels, its ends."""
    class_logits, mask_logits = random(1, 4, 3), random(1, 4, 3, 4, seed=1)
    z = random(1, 1, 3, 4, seed=2)
    p = {
        (y, x): instance_posterior(class_logits[0], mask_logits[0], y, x)
        for y, x in itertools.product(range(3), range(4))
    }
    sums = [0.0] * 4
    for (y, x), (dy, dx) in itertools.product(p, ((0, 1), (1, 0))):
        if (y + dy, x + dx) not in p:
            continue
        affinity = sum(map(mul, p[y, x], p[y + dy, x + dx]))
        m = max(z[0, 0, y, x], z[0, 0, y + dy, x + dx]).item()
        for k, each in enumerate(
            (
                affinity * math.log1p(math.exp(m)),
                affinity,
                (1 - affinity) * math.log1p(math.exp(-m)),
                1 - affinity,
            )
        ):
            sums[k] += each
    loss = boundary_affinity_loss(
        z, mask_query_logits(class_logits, mask_logits), radius=1.1
    )
    expected = sums[0] / sums[1] + sums[2] / sums[3]
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_instance_logits_are_finite_where_queries_are_certain():
    class_logits = torch.tensor([[[300.0, -300.0], [-300.0, 300.0]]])
    mask_logits = torch.tensor([[[[-300.0, 300.0]], [[300.0, 300.0]]]])
    logits = mask_query_logits(class_logits, mask_logits)
    assert logits.isfinite().all()
    # The second query is no object, so that the first pixel has none.
    assert logits.softmax(dim=1)[0, :, 0].T.tolist() == [[1, 0, 0], [0, 1, 0]]


both = pytest.mark.parametrize('f', [mask_class_logits, mask_query_logits])


@both
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_is_computed_in_float32_under_autocast(dtype, f):
    class_logits = random(1, 6, 4, dtype=torch.float32).to(dtype)
    mask_logits = random(1, 6, 3, 5, dtype=torch.float32).to(dtype)
    with torch.autocast('cpu', torch.bfloat16):
        logits = f(class_logits, mask_logits)
    expected = f(class_logits.double(), mask_logits.double())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    'class_logits, mask_logits, error, message',
    [
        (torch.zeros(1, 6, 4), torch.zeros(1, 5, 3, 3), ValueError, r'1, 5'),
        (torch.zeros(1, 6, 2), torch.zeros(1, 6, 3, 3), ValueError, 'least 2'),
        (torch.zeros(6, 4), torch.zeros(1, 6, 3, 3), ValueError, r'\(6, 4\)'),
        (torch.zeros(1, 6, 4), torch.zeros(1, 6, 9), ValueError, 'mask_logit'),
        ([torch.zeros(1, 6, 4)], torch.zeros(1, 6, 3, 3), TypeError, 'list'),
        (torch.zeros(1, 6, 4).long(), torch.zeros(1, 6, 3, 3), TypeError, 'i'),
    ],
)
def test_what_is_no_logits_of_queries_is_refused(
    class_logits, mask_logits, error, message
):
    with pytest.raises(error, match=message):
        mask_class_logits(class_logits, mask_logits)


def test_one_class_and_no_object_are_needed():
    with pytest.raises(ValueError, match='K of at least 1 and "no object"'):
        mask_query_logits(torch.zeros(1, 6, 1), torch.zeros(1, 6, 3, 3))
