"""The boundary loss against loops over pixels written from its formulas."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmbckd.functional import boundary_affinity_loss, pair_displacements
from tests.storage import LargestOutput

# ------------------------------------------------- reference, pixel by pixel


def reference_pairs(height, width, radius):
    """Every pair (i, j, pixels of its line) of a map, j after i."""
    pixels = [(y, x) for y in range(height) for x in range(width)]
    for a, (yi, xi) in enumerate(pixels):
        for yj, xj in pixels[a + 1 :]:
            dy, dx = yj - yi, xj - xi
            if dy**2 + dx**2 >= radius**2:
                continue
            n = max(abs(dy), abs(dx))
            line = [
                (
                    yi + math.floor(dy * k / n + 0.5),
                    xi + math.floor(dx * k / n + 0.5),
                )
                for k in range(n + 1)
            ]
            yield (yi, xi), (yj, xj), line


def softplus(x):
    return np.logaddexp(0, x)


def semantic_affinity(logits, tau):
    p = np.exp(logits / tau)
    p /= p.sum(0)
    return lambda i, j: float((p[:, i[0], i[1]] * p[:, j[0], j[1]]).sum())


def feature_affinity(maps, pairs):
    if not pairs:
        return None

    def distance(g, i, j):
        g_i, g_j = g[:, i[0], i[1]], g[:, j[0], j[1]]
        return 1 - g_i @ g_j / np.linalg.norm(g_i) / np.linalg.norm(g_j)

    sigmas = [np.mean([distance(g, i, j) for i, j, _ in pairs]) for g in maps]

    def affinity(i, j):
        return float(
            np.mean(
                [
                    np.exp(-distance(g, i, j) / sigma)
                    for g, sigma in zip(maps, sigmas)
                ]
            )
        )

    return affinity


def label_affinity(labels, ignore_index=255):

    def affinity(i, j):
        if ignore_index in (labels[i], labels[j]):
            return None
        return float(labels[i] == labels[j])

    return affinity


def reference_loss(z, affinities, radius):
    """z (N, H, W); affinities: per image, (i, j) -> A or None (ignored)."""
    sums = np.zeros(4)
    for image, affinity in zip(z, affinities):
        for i, j, line in reference_pairs(*image.shape, radius):
            weight = affinity(i, j)
            if weight is None:
                continue
            m = max(image[pixel] for pixel in line)
            sums += [
                weight * softplus(m),
                weight,
                (1 - weight) * softplus(-m),
                1 - weight,
            ]
    loss = 0.0
    if sums[1]:
        loss += sums[0] / sums[1]
    if sums[3]:
        loss += sums[2] / sums[3]
    return loss


def random(*shape, seed=0, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=dtype)


def random_labels(*shape, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(classes, shape, generator=generator)


def gradient(logits, teacher, **kwargs):
    logits = logits.clone().requires_grad_()
    loss = boundary_affinity_loss(logits, teacher, **kwargs)
    loss.backward()
    return loss.detach(), logits.grad


def constant_affinity_teacher(n, h, w):
    """Labels of one class: every A is 1, so that only log a counts."""
    return torch.zeros(n, h, w, dtype=torch.long)


# -------------------------------------------------------------------- pairs


@pytest.mark.parametrize('radius', [1.01, 1.5, 2, 3.7, 5, 5.0001, 10])
def test_each_unordered_pair_within_radius_occurs_once(radius):
    found = pair_displacements(radius)
    reach = range(-11, 12)
    disk = {
        (dy, dx)
        for dy in reach
        for dx in reach
        if 0 < dy**2 + dx**2 < radius**2
    }
    mirrored = [(-dy, -dx) for dy, dx in found]
    assert len(found) == len(set(found))
    assert set(found).isdisjoint(mirrored)
    assert set(found) | set(mirrored) == disk


def test_distance_equal_to_radius_is_outside():
    assert (0, 5) not in pair_displacements(5)
    assert (3, 4) not in pair_displacements(5)
    assert {(3, 4), (4, -3), (0, 5)} <= set(pair_displacements(5.001))


# Lines worked out by hand: {displacement: pixels relative to the first end}.
HAND_LINES = {
    (0, 3): [(0, 0), (0, 1), (0, 2), (0, 3)],
    (3, 0): [(0, 0), (1, 0), (2, 0), (3, 0)],
    (2, 2): [(0, 0), (1, 1), (2, 2)],
    (2, -2): [(0, 0), (1, -1), (2, -2)],
    (1, 2): [(0, 0), (1, 1), (1, 2)],  # 1/2 rounds up
    (2, 1): [(0, 0), (1, 1), (2, 1)],
    (2, -1): [(0, 0), (1, 0), (2, -1)],  # -1/2 rounds up as well, to 0
    (1, -2): [(0, 0), (1, -1), (1, -2)],
    (1, 3): [(0, 0), (0, 1), (1, 2), (1, 3)],
    (3, -2): [(0, 0), (1, -1), (2, -1), (3, -2)],
    (1, -4): [(0, 0), (0, -1), (1, -2), (1, -3), (1, -4)],
    (4, -2): [(0, 0), (1, 0), (2, -1), (3, -1), (4, -2)],
    (4, -1): [(0, 0), (1, 0), (2, 0), (3, -1), (4, -1)],
    (2, -3): [(0, 0), (1, -1), (1, -2), (2, -3)],
}


@pytest.mark.parametrize('displacement', HAND_LINES)
def test_line_passes_the_pixels_worked_out_by_hand(displacement):
    """A peak raises the pair's maximum exactly if it lies on the line."""
    dy, dx = displacement
    height, width = dy + 1, abs(dx) + 1
    start = (0, max(-dx, 0))
    # All pixels but the two ends are ignored: only this pair is left.
    labels = torch.full((1, height, width), 255)
    labels[0, start[0], start[1]] = 1
    labels[0, start[0] + dy, start[1] + dx] = 1
    on_line = set()
    for y in range(height):
        for x in range(width):
            z = torch.full((1, 1, height, width), -3.0)
            z[0, 0, y, x] = 2.0
            loss = boundary_affinity_loss(
                z, labels, source='label', radius=6
            ).item()
            if loss == pytest.approx(softplus(2.0), rel=1e-6):
                on_line.add((y - start[0], x - start[1]))
            else:
                assert loss == pytest.approx(softplus(-3.0), rel=1e-6)
    assert on_line == set(HAND_LINES[displacement])


# ------------------------------------------------------- value and gradient


@pytest.mark.parametrize('radius', [1.5, 3, 5])
@pytest.mark.parametrize('tau', [1.0, 0.5])
def test_semantic_loss_equals_loops_over_pixels(radius, tau):
    z, teacher = random(2, 1, 6, 7, scale=2), random(2, 4, 6, 7, seed=1)
    expected = reference_loss(
        z[:, 0].numpy(),
        [semantic_affinity(t, tau) for t in teacher.numpy()],
        radius,
    )
    loss = boundary_affinity_loss(z, teacher, radius=radius, tau=tau)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_more_channels_than_one_group_equal_loops_over_pixels():
    z, teacher = random(1, 1, 4, 5), random(1, 71, 4, 5, seed=1, scale=3)
    expected = reference_loss(
        z[:, 0].numpy(), [semantic_affinity(teacher[0].numpy(), 1.0)], 3
    )
    loss = boundary_affinity_loss(z, teacher, radius=3)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('num_maps', [1, 2])
def test_feature_loss_equals_loops_over_pixels(num_maps):
    z = random(2, 1, 6, 7, scale=2)
    # The images differ in spread, so that a shared sigma would show.
    maps = [random(2, 5 + m, 6, 7, seed=m + 1) for m in range(num_maps)]
    for g in maps:
        g[1] += 4
    pairs = list(reference_pairs(6, 7, 3))
    expected = reference_loss(
        z[:, 0].numpy(),
        [
            feature_affinity([g[n].numpy() for g in maps], pairs)
            for n in range(2)
        ],
        3,
    )
    teacher = maps if num_maps > 1 else maps[0]
    loss = boundary_affinity_loss(z, teacher, source='feature', radius=3)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    as_tuple = boundary_affinity_loss(
        z, tuple(maps), source='feature', radius=3
    )
    assert torch.equal(loss, as_tuple)


@pytest.mark.parametrize('ignored', [0, 5])
def test_label_loss_is_irnets_class_boundary_loss(ignored):
    """Mean of -log a over P+ and of -log(1 - a) over P-, in probabilities."""
    z, labels = random(2, 1, 7, 8, scale=2), random_labels(2, 7, 8, classes=4)
    labels.view(-1)[3 : 3 + 7 * ignored : 7] = 255
    boundary = 1 / (1 + np.exp(-z[:, 0].numpy()))
    positive, negative = [], []
    for b, y in zip(boundary, labels.numpy()):
        for i, j, line in reference_pairs(7, 8, 4):
            if 255 in (y[i], y[j]):
                continue
            a = 1 - max(b[pixel] for pixel in line)
            if y[i] == y[j]:
                positive.append(-np.log(a))
            else:
                negative.append(-np.log(1 - a))
    loss = boundary_affinity_loss(z, labels, source='label', radius=4)
    assert loss.item() == pytest.approx(
        np.mean(positive) + np.mean(negative), rel=1e-12
    )


def test_long_lines_of_radius_10_equal_loops_over_pixels():
    z, labels = random(1, 1, 12, 13, scale=3), random_labels(1, 12, 13)
    expected = reference_loss(
        z[:, 0].numpy(), [label_affinity(labels[0].numpy())], 10
    )
    loss = boundary_affinity_loss(z, labels, source='label', radius=10)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('shape', [(1, 9), (9, 1), (2, 3), (3, 12)])
def test_maps_smaller_than_the_radius_equal_loops_over_pixels(shape):
    z, labels = random(1, 1, *shape), random_labels(1, *shape, classes=2)
    expected = reference_loss(
        z[:, 0].numpy(), [label_affinity(labels[0].numpy())], 7
    )
    loss, grad = gradient(z, labels, source='label', radius=7)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert grad.isfinite().all() and grad.abs().max() > 0


SOURCES = {
    'semantic': lambda: random(2, 3, 3, 4, seed=1),
    'feature': lambda: [
        random(2, 4, 3, 3, seed=1),
        random(2, 6, 5, 6, seed=2),
    ],
    'label': lambda: random_labels(2, 5, 6).masked_fill(
        random(2, 5, 6, seed=3) > 1, 255
    ),
}


@pytest.mark.parametrize('source', SOURCES)
def test_gradient_equals_finite_differences(source):
    # A permutation of well separated values: no ties, no kink within eps.
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    z = (order.double() / 10 - 3).view(2, 1, 5, 6).requires_grad_()
    teacher = SOURCES[source]()

    def loss(x):
        return 3 * boundary_affinity_loss(x, teacher, source=source, radius=4)

    assert torch.autograd.gradcheck(loss, (z,))
    assert torch.autograd.gradgradcheck(loss, (z,))


def test_tied_maximum_takes_one_unit_of_gradient():
    """Of a constant z the gradient is that of moving all pixels at once."""
    z = torch.full((1, 1, 5, 6), 0.7, dtype=torch.float64)
    labels = random_labels(1, 5, 6)
    _, grad = gradient(z, labels, source='label', radius=4)
    eps = 1e-6
    up, down = (
        boundary_affinity_loss(z + e, labels, source='label', radius=4)
        for e in (eps, -eps)
    )
    assert grad.sum().item() == pytest.approx(
        (up - down).item() / (2 * eps), rel=1e-6
    )


def test_gradient_scales_with_that_of_the_loss_and_repeats():
    z, teacher = random(1, 1, 5, 6).requires_grad_(), random(1, 3, 5, 6)
    loss = boundary_affinity_loss(z, teacher)
    (once,) = torch.autograd.grad(loss, z, retain_graph=True)
    (scaled,) = torch.autograd.grad(
        loss, z, torch.tensor(-2.5, dtype=torch.float64), retain_graph=True
    )
    torch.testing.assert_close(scaled, -2.5 * once)
    assert torch.equal(torch.autograd.grad(loss, z)[0], once)


def test_pairs_are_balanced_over_the_batch_not_per_image():
    z, labels = random(2, 1, 5, 6), random_labels(2, 5, 6, classes=2)
    labels[1] = 0
    batch = boundary_affinity_loss(z, labels, source='label').item()
    affinities = [label_affinity(y) for y in labels.numpy()]
    assert batch == pytest.approx(
        reference_loss(z[:, 0].numpy(), affinities, 5), rel=1e-12
    )
    per_image = [
        boundary_affinity_loss(
            z[n : n + 1], labels[n : n + 1], source='label'
        ).item()
        for n in range(2)
    ]
    assert abs(batch - np.mean(per_image)) > 1e-2


# ---------------------------------------------------------------- edge cases


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('source', SOURCES)
def test_extreme_logits_keep_loss_and_gradient_finite(source, dtype):
    signs = random(2, 1, 5, 6).sign().to(dtype)
    loss, grad = gradient(1e4 * signs, SOURCES[source](), source=source)
    assert loss.isfinite() and grad.isfinite().all()
    assert loss > 1e3  # it is not clamped away either
    assert grad.abs().max() > 0


def test_logits_beyond_sigmoid_saturation_still_have_exact_loss():
    """sigmoid(-120) is 0 and sigmoid(90) is 1 in float32; log a is not."""
    z = torch.tensor([[[[90.0, -120.0]]]])
    same = torch.tensor([[[1, 1]]])
    loss, grad = gradient(z, same, source='label')
    assert loss.item() == 90
    assert grad.flatten().tolist() == [1, 0]
    loss, grad = gradient(z - 200, torch.tensor([[[1, 2]]]), source='label')
    assert loss.item() == 110
    assert grad.flatten().tolist() == [-1, 0]


@pytest.mark.parametrize('value', [-1.3, 2.0])
def test_term_without_weight_is_zero(value):
    z = torch.full((1, 1, 4, 4), value, dtype=torch.float64)
    same, _ = gradient(z, constant_affinity_teacher(1, 4, 4), source='label')
    assert same.item() == pytest.approx(softplus(value), rel=1e-12)
    different = torch.arange(16).view(1, 4, 4)
    apart, _ = gradient(z, different, source='label')
    assert apart.item() == pytest.approx(softplus(-value), rel=1e-12)


def test_batch_without_any_pair_has_zero_loss_and_gradient():
    ignored = torch.full((1, 4, 4), 255)
    cases = [
        (random(1, 1, 4, 4), ignored, 'label'),
        (random(1, 1, 1, 1), torch.zeros(1, 1, 1).long(), 'label'),
        (random(1, 1, 1, 1), random(1, 3, 1, 1), 'semantic'),
        (random(1, 1, 1, 1), random(1, 3, 1, 1), 'feature'),
    ]
    for z, teacher, source in cases:
        loss, grad = gradient(z, teacher, source=source)
        assert loss.item() == 0
        assert torch.equal(grad, torch.zeros_like(z))


def test_saturated_teacher_equals_labels_of_one_class():
    """A is 1 exactly, so that the term of 1 - A has no weight."""
    teacher = torch.zeros(1, 3, 8, 8)
    teacher[:, 0] = 1e3
    z = random(1, 1, 8, 8, dtype=torch.float32)
    loss, grad = gradient(z, teacher)
    labels, label_grad = gradient(
        z, constant_affinity_teacher(1, 8, 8), source='label'
    )
    torch.testing.assert_close(loss, labels)
    torch.testing.assert_close(grad, label_grad)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_constant_feature_map_has_affinity_one(dtype):
    z = random(2, 1, 6, 7, dtype=dtype)
    channels = random(1, 300, 1, 1, seed=1, dtype=dtype)
    # Positive multiples are the same direction, up to rounding.
    teacher = channels * (random(2, 1, 6, 7, seed=2, dtype=dtype).abs() + 0.1)
    loss, grad = gradient(z, teacher, source='feature')
    expected, expected_grad = gradient(
        z, constant_affinity_teacher(2, 6, 7), source='label'
    )
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grad, expected_grad)


def test_zero_features_give_no_nan():
    teacher = random(1, 4, 5, 6)
    teacher[:, :, 1:3, 2:4] = 0
    loss, grad = gradient(random(1, 1, 5, 6), teacher, source='feature')
    assert loss.isfinite() and grad.isfinite().all()


def test_ignored_pixels_drop_pairs_they_end_but_not_lines_they_cross():
    labels = torch.tensor([[[1, 255, 1]]])
    z = torch.tensor([[[[-4.0, 3.0, -4.0]]]])
    loss, grad = gradient(z, labels, source='label', radius=3)
    assert loss.item() == pytest.approx(softplus(3.0), rel=1e-6)
    assert grad.flatten()[1] > 0
    # As a class of its own the middle would add two pairs of A = 0.
    kept = boundary_affinity_loss(
        z, labels, source='label', radius=3, ignore_index=-1
    )
    assert kept.item() == pytest.approx(
        softplus(3.0) + softplus(-3.0), rel=1e-6
    )


# ----------------------------------------------------------------- resizing


@pytest.mark.parametrize('size', [(3, 4), (11, 13)])
def test_semantic_logits_are_resized_before_the_softmax(size):
    z, teacher = random(1, 1, 6, 7), random(1, 3, *size, seed=1, scale=4)
    resized = F.interpolate(
        teacher, size=(6, 7), mode='bilinear', align_corners=False
    )
    expected = reference_loss(
        z[:, 0].numpy(), [semantic_affinity(resized[0].numpy(), 1.0)], 3
    )
    loss = boundary_affinity_loss(z, teacher, radius=3)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_each_feature_map_is_resized_before_its_cosines():
    z = random(1, 1, 6, 7)
    maps = [random(1, 4, 3, 3, seed=1), random(1, 5, 12, 14, seed=2)]
    resized = [
        F.interpolate(g, size=(6, 7), mode='bilinear', align_corners=False)[
            0
        ].numpy()
        for g in maps
    ]
    pairs = list(reference_pairs(6, 7, 3))
    expected = reference_loss(
        z[:, 0].numpy(), [feature_affinity(resized, pairs)], 3
    )
    loss = boundary_affinity_loss(z, maps, source='feature', radius=3)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('size', [(3, 4), (13, 20), (5, 5)])
def test_labels_are_resized_to_the_nearest(size):
    z, labels = random(2, 1, 6, 7), random_labels(2, *size, classes=5)
    resized = F.interpolate(labels[:, None].double(), size=(6, 7))
    resized = resized[:, 0].long()
    loss, expected = (
        boundary_affinity_loss(z, y, source='label') for y in (labels, resized)
    )
    assert torch.equal(loss, expected)


def test_large_instance_ids_stay_apart_when_resized():
    ids = torch.tensor([[[2**24, 2**24 + 1]]])  # equal in float32
    z = torch.zeros(1, 1, 1, 4)
    loss = boundary_affinity_loss(z, ids, source='label', radius=4)
    assert loss.item() == pytest.approx(2 * math.log(2))


# --------------------------------------------------------- dtypes, gradients


@pytest.mark.parametrize('source', ['semantic', 'feature'])
def test_autocast_computes_in_float32(source):
    z = random(1, 1, 6, 7, dtype=torch.float32)
    teacher = random(1, 4, 6, 7, seed=1, dtype=torch.float32)
    expected, expected_grad = gradient(z, teacher, source=source)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss, grad = gradient(z, teacher, source=source)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert torch.equal(grad, expected_grad)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype):
    z = random(1, 1, 6, 7, dtype=torch.float32).to(dtype)
    teacher = random(1, 4, 6, 7, seed=1, dtype=torch.float32).to(dtype)
    loss, grad = gradient(z, teacher)
    expected, _ = gradient(z.float(), teacher.float())
    assert loss.dtype == torch.float32 and grad.dtype == dtype
    assert torch.equal(loss, expected)


def test_float64_logits_make_the_loss_float64_with_a_float32_teacher():
    z, teacher = random(1, 1, 6, 7), random(1, 4, 6, 7, seed=1).float()
    loss = boundary_affinity_loss(z, teacher)
    assert loss.dtype == torch.float64
    assert torch.equal(loss, boundary_affinity_loss(z, teacher.double()))


@pytest.mark.parametrize('source', ['semantic', 'feature'])
def test_teacher_receives_no_gradient(source):
    z = random(1, 1, 6, 7).requires_grad_()
    teacher = random(1, 4, 6, 7, seed=1).requires_grad_()
    boundary_affinity_loss(z, teacher, source=source).backward()
    assert z.grad is not None and teacher.grad is None
    loss = boundary_affinity_loss(z.detach(), teacher, source=source)
    assert not loss.requires_grad


def test_inputs_are_left_unchanged():
    z, teacher = random(1, 1, 6, 7), random(1, 4, 6, 7, seed=1)
    copies = z.clone(), teacher.clone()
    for source in ('semantic', 'feature'):
        gradient(z, teacher, source=source)
    assert torch.equal(z, copies[0]) and torch.equal(teacher, copies[1])


def test_loss_without_gradient_is_the_same():
    z, teacher = random(1, 1, 6, 7).requires_grad_(), random(1, 4, 6, 7)
    expected = boundary_affinity_loss(z, teacher)
    with torch.no_grad():
        loss = boundary_affinity_loss(z, teacher)
    assert not loss.requires_grad
    assert torch.equal(loss, expected.detach())


# ------------------------------------------------------------------- memory


@pytest.mark.parametrize('source', ['semantic', 'feature', 'label'])
def test_memory_does_not_grow_with_the_number_of_pairs(source):
    n, k, h, w = 2, 8, 32, 40
    z = random(n, 1, h, w, dtype=torch.float32).requires_grad_()
    teacher = random(n, k, h, w, seed=1, dtype=torch.float32)
    if source == 'label':
        teacher = teacher.argmax(1)
    assert len(pair_displacements(7)) > 4 * k
    with LargestOutput() as largest:
        boundary_affinity_loss(z, teacher, source=source, radius=7).backward()
    assert n * h * w <= largest.numel <= n * k * h * w


@pytest.mark.parametrize('radius', [2, 6])
@pytest.mark.parametrize('classes', [3, 50])
def test_backward_keeps_a_few_maps_whatever_the_pairs(radius, classes):
    saved = {}
    z = random(2, 1, 16, 16).requires_grad_()
    teacher = random(2, classes, 16, 16)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: saved.update({x.data_ptr(): x.numel()}) or x, lambda x: x
    ):
        boundary_affinity_loss(z, teacher, radius=radius)
    assert sum(saved.values()) <= 8 * z.numel()


# ---------------------------------------------------------------- arguments

Z = torch.zeros(2, 1, 4, 5)
T = torch.zeros(2, 3, 4, 5)
Y = torch.zeros(2, 4, 5, dtype=torch.long)


@pytest.mark.parametrize(
    'error, message, args, kwargs',
    [
        (
            TypeError,
            'boundary_logits to be a floating.*got torch.int64',
            (Z.long(), T),
            {},
        ),
        (
            TypeError,
            'boundary_logits to be a floating.*got list',
            ([Z], T),
            {},
        ),
        (
            ValueError,
            r'boundary_logits of shape \(N, 1, H, W\).*3',
            (T, T),
            {},
        ),
        (
            ValueError,
            r'boundary_logits of shape.*\(2, 4, 5\)',
            (Z[:, 0], T),
            {},
        ),
        (ValueError, 'none of them 0', (Z[:0], T[:0]), {}),
        (
            ValueError,
            'source to be one of.*edges',
            (Z, T),
            dict(source='edges'),
        ),
        (
            ValueError,
            'radius to be finite and greater than 1.*1',
            (Z, T),
            dict(radius=1),
        ),
        (
            ValueError,
            'radius to be finite.*inf',
            (Z, T),
            dict(radius=float('inf')),
        ),
        (TypeError, 'radius to be a number.*str', (Z, T), dict(radius='5')),
        (ValueError, 'positive tau.*0', (Z, T), dict(tau=0)),
        (TypeError, 'teacher to be a floating.*int64', (Z, T.long()), {}),
        (TypeError, 'teacher to be a floating.*list', (Z, [T]), {}),
        (ValueError, 'the 2 images.*1', (Z, T[:1]), {}),
        (ValueError, 'at least 2 class channels', (Z, Z), {}),
        (
            TypeError,
            'sequence of tensors.*int',
            (Z, 3),
            dict(source='feature'),
        ),
        (ValueError, 'at least one map', (Z, []), dict(source='feature')),
        (
            TypeError,
            r'teacher\[1\] to be a floating.*int64',
            (Z, [T, Y]),
            dict(source='feature'),
        ),
        (
            ValueError,
            r'teacher\[1\] to hold the 2 images.*1',
            (Z, [T, T[:1]]),
            dict(source='feature'),
        ),
        (
            TypeError,
            "integer map for 'label'.*float32",
            (Z, T),
            dict(source='label'),
        ),
        (
            TypeError,
            "tensor for 'label'.*list",
            (Z, [Y]),
            dict(source='label'),
        ),
        (
            ValueError,
            r"shape \(2, h, w\) for 'label'.*squeeze",
            (Z, Y[:, None]),
            dict(source='label'),
        ),
        (
            ValueError,
            r"shape \(2, h, w\) for 'label'",
            (Z, Y[:1]),
            dict(source='label'),
        ),
    ],
)
def test_wrong_arguments_are_named(error, message, args, kwargs):
    with pytest.raises(error, match=message):
        boundary_affinity_loss(*args, **kwargs)
