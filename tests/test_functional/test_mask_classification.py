"""mask_class_logits against its definition, pixel by pixel in float64."""

import math

import pytest
import torch

from mmbckd.functional import mask_class_logits


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


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_is_computed_in_float32_under_autocast(dtype):
    class_logits = random(1, 6, 4, dtype=torch.float32).to(dtype)
    mask_logits = random(1, 6, 3, 5, dtype=torch.float32).to(dtype)
    with torch.autocast('cpu', torch.bfloat16):
        logits = mask_class_logits(class_logits, mask_logits)
    expected = mask_class_logits(class_logits.double(), mask_logits.double())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    'class_logits, mask_logits, error, message',
    [
        (torch.zeros(1, 6, 4), torch.zeros(1, 5, 3, 3), ValueError, r'1, 5'),
        (torch.zeros(1, 6, 2), torch.zeros(1, 6, 3, 3), ValueError, '2 class'),
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
