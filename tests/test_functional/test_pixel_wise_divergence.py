"""pixel_wise_divergence against its definition, pixel by pixel in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmbckd.functional import pixel_wise_divergence


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=dtype)


def reference(student, teacher, tau):
    """tau^2 times the mean over pixels of sum_c p_T log(p_T / p_S)."""
    n, _, height, width = student.shape
    total = 0
    for i in range(n):
        for y in range(height):
            for x in range(width):
                p_s, p_t = (
                    [math.exp(v / tau) for v in logits[i, :, y, x].tolist()]
                    for logits in (student, teacher)
                )
                for s, t in zip(p_s, p_t):
                    s, t = s / sum(p_s), t / sum(p_t)
                    total += t * math.log(t / s)
    return tau**2 * total / (n * height * width)


@pytest.mark.parametrize('tau', [0.5, 1, 4])
@pytest.mark.parametrize('shape', [(2, 5, 4, 3), (1, 2, 1, 1)])
def test_equals_loops_over_images_pixels_and_classes(shape, tau):
    student, teacher = random(*shape), random(*shape, seed=1)
    loss = pixel_wise_divergence(student, teacher, tau=tau)
    assert loss.item() == pytest.approx(reference(student, teacher, tau))


def test_gradient_is_that_of_finite_differences_and_spares_the_teacher():
    student = random(2, 3, 2, 3).requires_grad_()
    teacher = random(2, 3, 3, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: pixel_wise_divergence(s, teacher, tau=2.0), student
    )
    pixel_wise_divergence(student, teacher).backward()
    assert student.grad is not None and teacher.grad is None


@pytest.mark.parametrize(
    'size_s, size_t', [((4, 6), (8, 9)), ((8, 9), (4, 6))]
)
def test_the_larger_logits_are_resized(size_s, size_t):
    student, teacher = random(1, 3, *size_s), random(1, 3, *size_t, seed=1)
    expected = reference(
        *(
            F.interpolate(x, size=(4, 6), mode='bilinear', align_corners=False)
            for x in (student, teacher)
        ),
        tau=1,
    )
    loss = pixel_wise_divergence(student, teacher)
    assert loss.item() == pytest.approx(expected)


def test_half_precision_is_computed_in_float32_also_under_autocast():
    student, teacher = (
        random(1, 4, 5, 6, seed=seed).bfloat16() for seed in (0, 1)
    )
    expected = pixel_wise_divergence(student.float(), teacher.float())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = pixel_wise_divergence(student, teacher)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_logits_that_underflow_give_a_finite_loss():
    student = torch.tensor([-200.0, 200.0]).view(1, 2, 1, 1)
    teacher = student.flip(1)
    loss = pixel_wise_divergence(student, teacher)
    assert loss.item() == pytest.approx(400)


S = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    'error, message, args, kwargs',
    [
        (TypeError, 'student to be a floating.*tuple', ((S, S), S), {}),
        (TypeError, 'teacher to be a floating.*int64', (S, S.long()), {}),
        (ValueError, r'student of shape.*\(2, 3\)', (S[..., 0, 0], S), {}),
        (ValueError, 'the 2 images.*1', (S, S[:1]), {}),
        (ValueError, 'as many classes.*3 and 2', (S, S[:, :2]), {}),
        (ValueError, 'at least 2 classes', (S[:, :1], S[:, :1]), {}),
        (ValueError, 'positive tau.*0', (S, S), dict(tau=0)),
    ],
)
def test_wrong_arguments_are_named(error, message, args, kwargs):
    with pytest.raises(error, match=message):
        pixel_wise_divergence(*args, **kwargs)
