"""The relation loss against loops over pixels written from its formulas."""

import gc

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmbckd.functional import relation_kl
from tests.storage import LargestOutput

# ------------------------------------------------- reference, pixel by pixel


def reference_relation(features, tau, exclude_self=False, center=False):
    """Rows of R as lists, from features (C, H, W)."""
    f = features.reshape(len(features), -1).T
    if center:
        f = f - f.mean(axis=0)
    f = [v / np.linalg.norm(v) if v.any() else v for v in f]
    rows = []
    for i, f_i in enumerate(f):
        weights = [
            0.0 if exclude_self and i == j else np.exp(f_i @ f_j / tau)
            for j, f_j in enumerate(f)
        ]
        rows.append([w / sum(weights) for w in weights])
    return rows


def reference_loss(student, teacher, tau, **options):
    divergences = []
    for f_s, f_t in zip(student.numpy(), teacher.numpy()):
        for row_s, row_t in zip(
            reference_relation(f_s, tau, **options),
            reference_relation(f_t, tau, **options),
        ):
            divergences.append(
                sum(t * np.log(t / s) for s, t in zip(row_s, row_t) if t)
            )
    return np.mean(divergences)


def plain_loss(student, teacher, tau=0.1, exclude_self=False):
    """Both relations as matrices, with autograd."""
    log_rows = []
    for features in (student, teacher):
        f = F.normalize(features.flatten(2), dim=1)
        logits = f.mT @ f / tau
        if exclude_self:
            itself = torch.eye(logits.shape[-1], dtype=torch.bool)
            logits = logits.masked_fill(itself, -1e9)
        log_rows.append(logits.log_softmax(-1))
    log_r_s, log_r_t = log_rows
    return (log_r_t.exp() * (log_r_t - log_r_s)).sum(-1).mean()


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def gradient(student, teacher, loss_fn=relation_kl, **kwargs):
    student = student.clone().requires_grad_()
    loss = loss_fn(student, teacher, **kwargs)
    loss.backward()
    return loss.detach(), student.grad


OPTIONS = [
    dict(),
    dict(exclude_self=True),
    dict(center=True),
    dict(exclude_self=True, center=True),
]

# ------------------------------------------------------- value and gradient


# Below a tau of 0.02885 the softmaxes need their maximum.
@pytest.mark.parametrize('options', OPTIONS)
@pytest.mark.parametrize('tau', [0.01, 0.0288, 0.0289, 0.1, 1.0])
def test_loss_equals_loops_over_pixels(tau, options):
    student, teacher = random(2, 3, 4, 5), random(2, 6, 4, 5, seed=1) + 0.5
    expected = reference_loss(student, teacher, tau, **options)
    loss = relation_kl(student, teacher, tau=tau, **options)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def test_default_temperature_is_a_tenth():
    student, teacher = random(1, 3, 4, 5), random(1, 6, 4, 5, seed=1)
    assert torch.equal(
        relation_kl(student, teacher), relation_kl(student, teacher, tau=0.1)
    )


@pytest.mark.parametrize('options', OPTIONS)
@pytest.mark.parametrize(
    'tau, block_size', [(0.3, None), (0.3, 5), (0.014, 5)]
)
def test_gradient_equals_finite_differences(tau, block_size, options):
    student = random(2, 3, 3, 4).requires_grad_()
    teacher = student.detach() + 0.01 * random(2, 3, 3, 4, seed=1)
    assert torch.autograd.gradcheck(
        lambda x: (
            3
            * relation_kl(
                x, teacher, tau=tau, block_size=block_size, **options
            )
        ),
        (student,),
    )


def test_gradient_equals_that_of_the_materialized_relations():
    student = random(2, 16, 8, 12, dtype=torch.float32)
    teacher = random(2, 32, 8, 12, seed=1, dtype=torch.float32)
    loss, grad = gradient(student, teacher)
    expected, expected_grad = gradient(student, teacher, plain_loss)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize('block_size', [1, 7, 19, 20, 64])
@pytest.mark.parametrize('tau', [0.01, 0.1])
@pytest.mark.parametrize('options', OPTIONS)
def test_result_is_independent_of_block_size(block_size, tau, options):
    student, teacher = random(2, 3, 4, 5), random(2, 6, 4, 5, seed=1)
    options = dict(options, tau=tau)
    expected = gradient(student, teacher, **options)
    found = gradient(student, teacher, block_size=block_size, **options)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('block_size', [None, 100, 300, 2000])
def test_float32_equals_float64_for_any_block_size(block_size):
    student = random(1, 24, 30, 40, dtype=torch.float32)
    teacher = torch.cat([student, random(1, 9, 30, 40).float()], dim=1)
    expected, expected_grad = gradient(
        student.double(), teacher.double(), plain_loss
    )
    loss, grad = gradient(student, teacher, block_size=block_size)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-7)
    error = (grad - expected_grad).norm() / expected_grad.norm()
    assert error < 1e-5


def test_gradient_scales_with_that_of_the_loss_and_repeats():
    student, teacher = random(1, 3, 4, 5).requires_grad_(), random(1, 3, 4, 5)
    loss = relation_kl(student, teacher.flip(2))
    (once,) = torch.autograd.grad(loss, student, retain_graph=True)
    (scaled,) = torch.autograd.grad(
        loss,
        student,
        torch.tensor(-2.5, dtype=torch.float64),
        retain_graph=True,
    )
    torch.testing.assert_close(scaled, -2.5 * once)
    assert torch.equal(torch.autograd.grad(loss, student)[0], once)


# -------------------------------------------------------------- invariances


def test_positive_scale_of_each_pixel_does_not_matter():
    student, teacher = random(2, 3, 4, 5), random(2, 6, 4, 5, seed=1)
    scales = random(2, 1, 4, 5, seed=2).exp()
    torch.testing.assert_close(
        relation_kl(student * scales, teacher * 1e3 / scales),
        relation_kl(student, teacher),
    )


def test_rotation_of_the_channels_does_not_matter():
    student, teacher = random(2, 4, 4, 5), random(2, 6, 4, 5, seed=1)
    expected = relation_kl(student, teacher)
    for channels in (4, 6):
        q, _ = torch.linalg.qr(random(channels, channels, seed=2))
        rotated = [
            torch.einsum('dc,nchw->ndhw', q, f)
            if f.shape[1] == channels
            else f
            for f in (student, teacher)
        ]
        torch.testing.assert_close(relation_kl(*rotated), expected)


def test_common_permutation_of_the_pixels_does_not_matter():
    student, teacher = random(2, 3, 4, 5), random(2, 6, 4, 5, seed=1)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))

    def permute(f):
        return f.flatten(2)[..., order].unflatten(2, (4, 5))

    loss, grad = gradient(student, teacher)
    found, found_grad = gradient(permute(student), permute(teacher))
    torch.testing.assert_close(found, loss)
    torch.testing.assert_close(found_grad, permute(grad))
    # Permuting one of them alone is another loss.
    assert (relation_kl(permute(student), teacher) - loss).abs() > 1e-3


def test_constant_offset_matters_only_without_centring():
    student, teacher = random(2, 3, 4, 5), random(2, 6, 4, 5, seed=1)
    moved = student + random(2, 3, 1, 1, seed=2)
    torch.testing.assert_close(
        relation_kl(moved, teacher, center=True),
        relation_kl(student, teacher, center=True),
    )
    difference = relation_kl(moved, teacher) - relation_kl(student, teacher)
    assert difference.abs() > 1e-3


@pytest.mark.parametrize('options', OPTIONS)
def test_equal_features_have_no_loss_and_no_gradient(options):
    features = random(2, 3, 4, 5)
    loss, grad = gradient(features, features.clone(), **options)
    assert abs(loss.item()) < 1e-14
    assert grad.abs().max() < 1e-14


@pytest.mark.parametrize('seed', range(5))
def test_loss_is_positive_for_different_features(seed):
    student, teacher = (
        random(1, 3, 4, 5, seed=seed),
        random(1, 3, 4, 5, seed=seed + 9),
    )
    assert relation_kl(student, teacher) > 1e-3
    assert relation_kl(student, teacher) != relation_kl(teacher, student)


def test_images_are_averaged():
    student, teacher = random(3, 3, 4, 5), random(3, 6, 4, 5, seed=1)
    each = [
        relation_kl(student[n : n + 1], teacher[n : n + 1]) for n in range(3)
    ]
    torch.testing.assert_close(
        relation_kl(student, teacher), sum(each) / len(each)
    )


# ---------------------------------------------------------------- edge cases


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_zero_vectors_are_unrelated_and_take_no_gradient(side):
    student, teacher = random(1, 3, 4, 5), random(1, 6, 4, 5, seed=1)
    zeroed = student if side == 'student' else teacher
    zeroed[:, :, 1, 2:4] = 0
    loss, grad = gradient(student, teacher)
    assert loss.item() == pytest.approx(
        reference_loss(student, teacher, 0.1), rel=1e-10
    )
    assert grad.isfinite().all()
    assert grad.abs().max() < 1  # not multiplied by 1 / eps
    if side == 'student':
        assert torch.equal(grad[:, :, 1, 2:4], torch.zeros(1, 3, 2).double())


@pytest.mark.parametrize('exclude_self', [False, True])
@pytest.mark.parametrize('tau', [1e-2, 1e-3])
def test_small_temperature_is_exact_in_float32(tau, exclude_self):
    """exp((s - 1) / tau) of everything but the pixel itself underflows."""
    student = random(1, 8, 4, 5, dtype=torch.float32)
    teacher = random(1, 8, 4, 5, seed=1, dtype=torch.float32)
    options = dict(tau=tau, exclude_self=exclude_self)
    loss, grad = gradient(student, teacher, **options)
    expected, expected_grad = gradient(
        student.double(), teacher.double(), **options
    )
    assert expected_grad.isfinite().all()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-3, atol=1e-12)
    torch.testing.assert_close(
        grad.double(), expected_grad, rtol=2e-2, atol=2e-2
    )


@pytest.mark.parametrize('exclude_self', [False, True])
@pytest.mark.parametrize('tau', [0.0289, 0.0288, 0.0145, 0.0144])
def test_logits_at_their_bounds_neither_overflow_nor_vanish(tau, exclude_self):
    """All pixels alike, and two groups that point to opposite sides."""
    options = dict(tau=tau, exclude_self=exclude_self)
    alike = random(1, 4, 1, 1, dtype=torch.float32).expand(1, 4, 20, 30)
    opposite = alike.clone()
    opposite[..., 1:] *= -1
    for student, teacher in ((alike, opposite), (opposite, alike)):
        loss, grad = gradient(student, teacher, **options)
        expected, expected_grad = gradient(
            student.double(), teacher.double(), **options
        )
        assert expected.isfinite() and expected > 0
        torch.testing.assert_close(loss.double(), expected, rtol=2e-5, atol=0)
        torch.testing.assert_close(
            grad.double(), expected_grad, rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize('block_size', [None, 1, 2, 3, 5, 12])
@pytest.mark.parametrize('tau', [0.01, 0.0144, 0.02, 0.0288, 0.0289, 0.1])
def test_pixel_that_is_like_no_other_is_exact_in_float32(tau, block_size):
    """Without itself all of its powers are tiny, and those of the other
    relation large: neither a sum nor a quotient of sums may overflow."""
    common = random(1, 4, 1, 1)
    alike = common + 0.05 * random(1, 4, 3, 4, seed=1)
    lone = common + 0.001 * random(1, 4, 3, 4, seed=2)
    lone[..., 1, 1] *= -1
    for student, teacher in ((alike, lone), (lone, alike)):
        student, teacher = student.float(), teacher.float()
        loss, grad = gradient(
            student, teacher, tau=tau, exclude_self=True, block_size=block_size
        )
        expected, expected_grad = gradient(
            student.double(),
            teacher.double(),
            plain_loss,
            tau=tau,
            exclude_self=True,
        )
        assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
        error = (grad - expected_grad).norm() / expected_grad.norm()
        assert error < 2e-3


def test_single_channel_of_either_sign_is_exact_in_float32():
    student = torch.ones(1, 1, 1, 3)
    teacher = torch.tensor([[[[1.0, -1.0, -1.0]]]])
    options = dict(tau=0.02, exclude_self=True)
    loss, grad = gradient(student, teacher, **options)
    # Two of three rows: one hot against 1/2 and 1/2, hence log 2.
    assert loss.item() == pytest.approx(2 / 3 * np.log(2), rel=1e-6)
    # A single channel leaves nothing but the sign: no direction to change.
    assert torch.equal(grad, torch.zeros_like(grad))


@pytest.mark.parametrize('tau', [0.01, 0.1])
@pytest.mark.parametrize('options', OPTIONS)
def test_single_pixel_has_no_loss(options, tau):
    options = dict(options, tau=tau)
    loss, grad = gradient(random(2, 3, 1, 1), random(2, 4, 1, 1), **options)
    assert loss.item() == pytest.approx(0, abs=1e-15)  # float64's rounding
    assert torch.equal(grad, torch.zeros_like(grad))


# ----------------------------------------------------------------- resizing


def test_no_pixels_have_no_loss():
    student = torch.zeros(1, 3, 1, 0, dtype=torch.float64, requires_grad=True)
    loss = relation_kl(student, torch.zeros(1, 5, 1, 0))
    loss.backward()
    assert loss == 0 and student.grad.shape == student.shape
    with pytest.raises(ValueError, match='student .*none of them 0'):
        relation_kl(student, torch.zeros(1, 5, 1, 4))


@pytest.mark.parametrize(
    'size_s, size_t', [((4, 5), (8, 10)), ((7, 9), (4, 5)), ((4, 6), (6, 4))]
)
def test_larger_map_is_resized_to_the_smaller(size_s, size_t):
    student, teacher = random(2, 3, *size_s), random(2, 6, *size_t, seed=1)
    options = dict(mode='bilinear', align_corners=False)
    if size_s[0] * size_s[1] > size_t[0] * size_t[1]:
        expected = reference_loss(
            F.interpolate(student, size_t, **options), teacher, 0.1
        )
    else:
        expected = reference_loss(
            student, F.interpolate(teacher, size_s, **options), 0.1
        )
    loss, grad = gradient(student, teacher)
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    assert grad.shape == student.shape and grad.abs().max() > 0


def test_gradient_through_the_resizing_equals_finite_differences():
    student = random(1, 2, 4, 5).requires_grad_()
    teacher = random(1, 3, 3, 3, seed=1)
    assert torch.autograd.gradcheck(
        lambda x: relation_kl(x, teacher, tau=0.5), (student,)
    )


# --------------------------------------------------------- dtypes, gradients


def test_autocast_computes_in_float32():
    student = random(1, 3, 4, 5, dtype=torch.float32)
    teacher = random(1, 6, 4, 5, seed=1, dtype=torch.float32)
    expected, expected_grad = gradient(student, teacher)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss, grad = gradient(student, teacher)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert torch.equal(grad, expected_grad)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype):
    student = random(1, 3, 4, 5, dtype=torch.float32).to(dtype)
    teacher = random(1, 6, 4, 5, seed=1, dtype=torch.float32).to(dtype)
    loss, grad = gradient(student, teacher)
    expected, _ = gradient(student.float(), teacher.float())
    assert loss.dtype == torch.float32 and grad.dtype == dtype
    assert torch.equal(loss, expected)


def test_float64_student_makes_the_loss_float64_with_a_float32_teacher():
    student, teacher = random(1, 3, 4, 5), random(1, 6, 4, 5, seed=1).float()
    loss = relation_kl(student, teacher)
    assert loss.dtype == torch.float64
    assert torch.equal(loss, relation_kl(student, teacher.double()))


def test_teacher_receives_no_gradient():
    student = random(1, 3, 4, 5).requires_grad_()
    teacher = random(1, 6, 8, 10, seed=1).requires_grad_()
    relation_kl(student, teacher, center=True).backward()
    assert student.grad is not None and teacher.grad is None
    assert not relation_kl(student.detach(), teacher).requires_grad


def test_inputs_are_left_unchanged():
    student, teacher = random(1, 3, 4, 5), random(1, 6, 4, 5, seed=1)
    copies = student.clone(), teacher.clone()
    for options in OPTIONS:
        gradient(student, teacher, **options)
    assert torch.equal(student, copies[0])
    assert torch.equal(teacher, copies[1])


def test_loss_without_gradient_is_the_same():
    student, teacher = random(1, 3, 4, 5).requires_grad_(), random(1, 6, 4, 5)
    expected = relation_kl(student, teacher)
    with torch.no_grad():
        loss = relation_kl(student, teacher)
    assert not loss.requires_grad
    assert torch.equal(loss, expected.detach())


def test_non_contiguous_features_give_the_same():
    student = random(1, 4, 5, 3).permute(0, 3, 1, 2)
    teacher = random(1, 6, 4, 10, seed=1)[..., ::2]
    found = gradient(student, teacher)
    expected = gradient(student.contiguous(), teacher.contiguous())
    torch.testing.assert_close(found, expected)


# ------------------------------------------------------------------- memory


# At (16, 64) the relation is small enough to fit into one block's budget.
@pytest.mark.parametrize('size', [(16, 64), (32, 64)])
def test_no_relation_is_ever_held_as_a_whole(size):
    num_pixels = size[0] * size[1]
    student = random(1, 4, *size, dtype=torch.float32).requires_grad_()
    teacher = random(1, 8, *size, seed=1, dtype=torch.float32)
    saved = []
    with (
        LargestOutput() as largest,
        torch.autograd.graph.saved_tensors_hooks(
            lambda x: saved.append(x.numel()) or x, lambda x: x
        ),
    ):
        relation_kl(student, teacher).backward()
    assert student.grad is not None
    assert largest.numel >= num_pixels  # the mode saw the blocks
    assert largest.numel < num_pixels**2 / 2
    assert saved and max(saved) <= student.numel()


def test_block_size_bounds_the_memory():
    student = random(1, 4, 32, 32, dtype=torch.float32).requires_grad_()
    teacher = random(1, 8, 32, 32, seed=1, dtype=torch.float32)
    with LargestOutput() as largest:
        relation_kl(student, teacher, block_size=64).backward()
    assert largest.numel == teacher.numel() == 2 * 64**2


@pytest.mark.parametrize('options', OPTIONS)
@pytest.mark.parametrize('tau', [0.01, 0.1])
def test_nothing_waits_for_the_device(tau, options):
    """No .item(), no boolean mask, no comparison of tensors in Python."""
    student = random(2, 3, 4, 5).requires_grad_()
    with LargestOutput() as operations:
        relation_kl(
            student, random(2, 6, 8, 9, seed=1), tau=tau, **options
        ).backward()
    assert 'exp2' in operations.names or 'exp2_' in operations.names
    assert not operations.names & {
        '_local_scalar_dense',
        'item',
        'is_nonzero',
        'nonzero',
        'equal',
        'masked_select',
    }


def test_steps_of_various_shapes_keep_no_tensor():

    def live():
        return sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = live()
        for height in range(2, 12):
            student = random(2, 3, height, 7).requires_grad_()
            loss = relation_kl(student, random(2, 4, 5, 6))
            loss.backward()
            del student, loss
        assert live() == before
    finally:
        gc.enable()


# ---------------------------------------------------------------- arguments

S = torch.ones(2, 3, 4, 5)


@pytest.mark.parametrize(
    'error, message, args, kwargs',
    [
        (TypeError, 'student to be a floating.*int64', (S.long(), S), {}),
        (TypeError, 'teacher to be a floating.*list', (S, [S]), {}),
        (ValueError, r'student of shape.*\(3, 4, 5\)', (S[0], S), {}),
        (
            ValueError,
            r'teacher of shape.*none of them 0.*\(2, 3, 0, 5\)',
            (S, S[:, :, :0]),
            {},
        ),
        (ValueError, 'the 2 images.*1', (S, S[:1]), {}),
        (ValueError, 'positive tau.*-1', (S, S), dict(tau=-1)),
        (
            ValueError,
            'positive block_size.*0',
            (S, S),
            dict(block_size=0),
        ),
        (
            TypeError,
            'block_size to be an integer.*float',
            (S, S),
            dict(block_size=2.0),
        ),
    ],
)
def test_wrong_arguments_are_named(error, message, args, kwargs):
    with pytest.raises(error, match=message):
        relation_kl(*args, **kwargs)
