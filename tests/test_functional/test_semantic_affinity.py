"""semantic_affinity_loss against its definition, pair by pair in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmbckd.functional import semantic_affinity_loss


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=dtype)


def probabilities(logits, tau):
    """{(y, x): [p(c), ...]} of one image."""
    _, height, width = logits.shape
    found = {}
    for y in range(height):
        for x in range(width):
            powers = [math.exp(v / tau) for v in logits[:, y, x].tolist()]
            found[y, x] = [p / sum(powers) for p in powers]
    return found


def cosine(p, q):
    dot = sum(a * b for a, b in zip(p, q))
    return dot / math.hypot(*p) / math.hypot(*q)


def reference(student, teacher, radius, tau):
    same = different = all_same = all_different = 0.0
    for image_s, image_t in zip(student, teacher):
        p_s, p_t = (probabilities(x, tau) for x in (image_s, image_t))
        mass = [sum(p[c] for p in p_t.values()) for c in range(len(image_t))]
        w = {i: sum(p * p / m for p, m in zip(p_t[i], mass)) for i in p_t}
        for i in p_t:
            for j in p_t:
                if not (i < j and math.dist(i, j) < radius):
                    continue
                affinity = cosine(p_t[i], p_t[j])
                a = 1e-4 + (1 - 2e-4) * cosine(p_s[i], p_s[j])
                w_ij = w[i] + w[j]
                all_same += w_ij * affinity
                all_different += w_ij * (1 - affinity)
                same -= w_ij * affinity * math.log(a)
                different -= w_ij * (1 - affinity) * math.log(1 - a)
    least = 1e-3 * (all_same + all_different)
    return same / all_same + different / max(all_different, least)


@pytest.mark.parametrize(
    'shape, radius, tau',
    [((2, 5, 5, 6), 4.0, 1.0), ((1, 2, 3, 7), 2.5, 0.5), ((2, 3, 1, 4), 9, 2)],
)
def test_equals_loops_over_pairs(shape, radius, tau):
    student, teacher = random(*shape), random(*shape, seed=1)
    loss = semantic_affinity_loss(student, teacher, radius=radius, tau=tau)
    assert loss.item() == pytest.approx(
        reference(student, teacher, radius, tau), rel=1e-9
    )


@pytest.mark.parametrize('margin', [8.0, 12.0])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_teacher_that_is_sure_of_one_class_draws_no_boundary(margin, dtype):
    teacher = random(2, 2, 8, 9, dtype=dtype) / 10
    teacher[:, 0] += margin
    student = random(2, 2, 8, 9, seed=1, dtype=dtype)
    # What is left of the second term, of at most -log(1e-4), is small.
    loss = semantic_affinity_loss(torch.zeros_like(teacher), teacher)
    assert loss.item() < 0.02 * -math.log(1e-4)
    assert semantic_affinity_loss(student, teacher).item() == pytest.approx(
        reference(student.double(), teacher.double(), 4.0, 1.0), abs=2e-2
    )


def test_gradient_is_that_of_finite_differences_and_spares_the_teacher():
    student = random(2, 3, 3, 4).requires_grad_()
    teacher = random(2, 3, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: semantic_affinity_loss(s, teacher, radius=3), student
    )
    semantic_affinity_loss(student, teacher).backward()
    assert student.grad is not None and teacher.grad is None


@pytest.mark.parametrize('size', [(2, 3), (8, 9)])
def test_teacher_is_resized_to_the_student(size):
    student, teacher = random(1, 3, 4, 6), random(1, 3, *size, seed=1)
    resized = F.interpolate(
        teacher, size=(4, 6), mode='bilinear', align_corners=False
    )
    assert semantic_affinity_loss(student, teacher).item() == pytest.approx(
        reference(student, resized, 4.0, 1.0)
    )


def test_affinity_is_least_where_the_boundaries_are_the_same():
    teacher = torch.full((1, 2, 6, 6), 8.0)
    teacher[:, 0, :, :3] = -8
    shifted = teacher.roll(1, dims=3)
    uncertain = teacher / 8
    exact, moved, soft = (
        semantic_affinity_loss(s, teacher).item()
        for s in (teacher, shifted, uncertain)
    )
    assert exact < soft < moved


def test_names_of_the_classes_do_not_matter():
    student, teacher = random(2, 4, 5, 5), random(2, 4, 5, 5, seed=1)
    permuted = student[:, [2, 0, 3, 1]]
    assert semantic_affinity_loss(permuted, teacher).item() == pytest.approx(
        semantic_affinity_loss(student, teacher).item()
    )


def test_unseen_class_takes_no_weight():
    # With a hundred classes that the teacher sees nowhere, the pairs of the
    # two that it sees still decide.
    student, teacher = random(1, 2, 6, 6), random(1, 2, 6, 6, seed=1)
    unseen = torch.full((1, 100, 6, 6), -40.0, dtype=torch.float64)
    assert semantic_affinity_loss(
        torch.cat([student, unseen], dim=1), torch.cat([teacher, unseen], 1)
    ).item() == pytest.approx(
        semantic_affinity_loss(student, teacher).item(), rel=1e-6
    )


def test_extreme_logits_stay_finite():
    teacher = torch.full((1, 3, 4, 4), 1e4)
    teacher[:, 0, :2] = -1e4
    student = teacher.flip(2).requires_grad_()
    loss = semantic_affinity_loss(student, teacher)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


def test_single_pixel_has_no_pair():
    student = random(1, 3, 1, 1).requires_grad_()
    loss = semantic_affinity_loss(student, random(1, 3, 1, 1, seed=1))
    loss.backward()
    assert loss.item() == 0 and not student.grad.any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    student = random(1, 3, 5, 5).to(dtype)
    teacher = random(1, 3, 5, 5, seed=1).to(dtype)
    loss = semantic_affinity_loss(student, teacher)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(
        semantic_affinity_loss(student.double(), teacher.double()).item(),
        rel=1e-4,
    )


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(tau=0), 'positive tau'),
        (dict(radius=1), 'radius to be finite and greater than 1'),
        (dict(teacher=torch.zeros(1, 4, 4, 4)), '3 and 4 channels'),
        (
            dict.fromkeys(('student', 'teacher'), torch.zeros(1, 1, 4, 4)),
            'at least 2 classes',
        ),
        (dict(teacher=torch.zeros(2, 3, 4, 4)), '1 images of the student'),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    arguments = dict(
        student=torch.zeros(1, 3, 4, 4), teacher=torch.zeros(1, 3, 4, 4)
    )
    with pytest.raises(ValueError, match=message):
        semantic_affinity_loss(**{**arguments, **change})
