"""boundary_balanced_divergence against its definition, in float64 loops."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from mmbckd.functional import (
    boundary_balanced_divergence,
    pixel_wise_divergence,
)


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=dtype)


def reference(student, teacher, radius, tau):
    """Every pair of pixels is looked at."""
    p = softmax(teacher.numpy(), axis=1)
    log_t, log_s = (
        log_softmax(x.numpy() / tau, axis=1) for x in (teacher, student)
    )
    divergence = tau**2 * (np.exp(log_t) * (log_t - log_s)).sum(1)
    edges = np.zeros_like(divergence)
    n, height, width = edges.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    for image in range(n):
        for i in pixels:
            for j in pixels:
                if 0 < np.hypot(i[0] - j[0], i[1] - j[1]) < radius:
                    affinity = (
                        p[(image, slice(None), *i)]
                        @ (p[(image, slice(None), *j)])
                    )
                    edges[(image, *i)] = max(edges[(image, *i)], 1 - affinity)
    return 0.5 * sum(
        (w * divergence).sum() / w.sum() for w in (edges, 1 - edges)
    )


@pytest.mark.parametrize('radius', [1.1, 3.0, 20.0])
@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_equals_loops_over_images_and_pairs(radius, tau):
    student, teacher = random(2, 4, 5, 6), random(2, 4, 5, 6, seed=1)
    loss = boundary_balanced_divergence(
        student, teacher, radius=radius, tau=tau
    )
    assert loss.item() == pytest.approx(
        reference(student, teacher, radius, tau)
    )


def test_gradient_is_that_of_finite_differences_and_spares_the_teacher():
    student = random(1, 3, 3, 4).requires_grad_()
    teacher = random(1, 3, 5, 6, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: boundary_balanced_divergence(s, teacher), student
    )
    boundary_balanced_divergence(student, teacher).backward()
    assert student.grad is not None and teacher.grad is None


def test_pixels_at_a_boundary_count_as_much_as_all_others():
    """One column of ten is wrong, beside a boundary or far from it."""
    teacher = torch.full((1, 2, 4, 10), 0.0)
    teacher[:, 0], teacher[:, 1] = 40, -40
    teacher[..., 5:] *= -1
    losses = []
    for column in (5, 9):
        student = teacher.clone()
        student[..., column] *= -1
        losses.append(boundary_balanced_divergence(student, teacher, radius=2))
    # Of 2 columns near the boundary one is wrong, or one of 8 others.
    assert losses[0].item() == pytest.approx(80 / 2 / 2)
    assert losses[1].item() == pytest.approx(80 / 8 / 2)


def test_without_boundaries_it_is_half_the_plain_divergence():
    student = random(2, 3, 4, 4)
    teacher = torch.zeros_like(student)
    teacher[:, 0] = 800
    expected = pixel_wise_divergence(student, teacher) / 2
    loss = boundary_balanced_divergence(student, teacher)
    assert loss.item() == pytest.approx(expected.item())


def test_half_precision_is_computed_in_float32_also_under_autocast():
    student, teacher = (
        random(1, 4, 5, 6, seed=seed).bfloat16() for seed in (0, 1)
    )
    expected = boundary_balanced_divergence(student.float(), teacher.float())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = boundary_balanced_divergence(student, teacher)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@pytest.mark.parametrize(
    'message, kwargs',
    [('positive tau.*0', dict(tau=0)), ('radius.*0', dict(radius=0))],
)
def test_wrong_arguments_are_named(message, kwargs):
    x = torch.zeros(1, 3, 4, 5)
    with pytest.raises(ValueError, match=message):
        boundary_balanced_divergence(x, x, **kwargs)
