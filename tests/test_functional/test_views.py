"""What of the losses can be looked at, against loops over pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmbckd.functional import (
    affinity_edges,
    relation_kl,
    relation_rows,
    semantic_affinity_edges,
)


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


# -------------------------------------------------------------------- edges


def neighbors(height, width):
    """Pairs at a distance of 1."""
    for y in range(height):
        for x in range(width):
            if y + 1 < height:
                yield (y, x), (y + 1, x)
            if x + 1 < width:
                yield (y, x), (y, x + 1)


def reference_edges(affinity, size):
    """1 - the least affinity; affinity: (i, j) -> A or None (ignored)."""
    edges = np.zeros(size)
    for i, j in neighbors(*size):
        value = affinity(i, j)
        if value is not None:
            edges[i] = max(edges[i], 1 - value)
            edges[j] = max(edges[j], 1 - value)
    return edges


def test_semantic_edges_equal_loops_over_neighbors():
    logits = random(2, 3, 5, 6)
    edges = affinity_edges(torch.zeros(2, 1, 5, 6).double(), logits, tau=2.0)
    assert edges.shape == (2, 1, 5, 6)
    for image, found in zip(logits.numpy(), edges[:, 0].numpy()):
        p = np.exp(image / 2)
        p /= p.sum(0)
        expected = reference_edges(
            lambda i, j, p=p: p[:, i[0], i[1]] @ p[:, j[0], j[1]], (5, 6)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_edges_on_the_mask_equal_loops_over_neighbors():
    student = random(2, 3, 5, 6).requires_grad_()
    teacher = random(2, 3, 3, 4, seed=1)
    found = semantic_affinity_edges(student, teacher, tau=2.0)
    resized = F.interpolate(
        teacher, size=(5, 6), mode='bilinear', align_corners=False
    )
    for logits, edges in zip((student.detach(), resized), found):
        assert edges.shape == (2, 1, 5, 6) and not edges.requires_grad
        for image, edges_of_image in zip(logits.numpy(), edges[:, 0].numpy()):
            p = np.exp(image / 2)
            p /= np.linalg.norm(p, axis=0)
            expected = reference_edges(
                lambda i, j, p=p: p[:, i[0], i[1]] @ p[:, j[0], j[1]], (5, 6)
            )
            np.testing.assert_allclose(edges_of_image, expected, rtol=1e-9)


def test_feature_edges_take_their_scale_from_the_radius_of_the_loss():
    feature = random(1, 3, 4, 5)
    unit = feature[0].numpy() / np.linalg.norm(feature[0].numpy(), axis=0)

    def distance(i, j):
        return 1 - unit[:, i[0], i[1]] @ unit[:, j[0], j[1]]

    pixels = [(y, x) for y in range(4) for x in range(5)]
    near = [
        distance(i, j)
        for a, i in enumerate(pixels)
        for j in pixels[a + 1 :]
        if (i[0] - j[0]) ** 2 + (i[1] - j[1]) ** 2 < 3**2
    ]
    expected = reference_edges(
        lambda i, j: np.exp(-distance(i, j) / np.mean(near)), (4, 5)
    )
    edges = affinity_edges(
        torch.zeros(1, 1, 4, 5).double(), [feature], source='feature', radius=3
    )
    np.testing.assert_allclose(edges[0, 0].numpy(), expected, rtol=1e-12)


def test_label_edges_lie_on_both_sides_and_not_at_ignored_pixels():
    labels = torch.tensor([[[0, 0, 1, 1, 255, 2], [0, 0, 0, 1, 255, 2]]])
    edges = affinity_edges(torch.zeros(1, 1, 2, 6), labels, source='label')
    expected = [[0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0]]
    assert edges[0, 0].tolist() == expected


def test_edges_have_the_resolution_of_the_boundary_map_and_no_gradient():
    z = torch.zeros(1, 1, 8, 12, requires_grad=True)
    edges = affinity_edges(z, random(1, 3, 4, 6, dtype=torch.float32))
    assert edges.shape == z.shape and not edges.requires_grad


# ---------------------------------------------------------------- relations


def reference_row(features, pixel, tau, exclude_self, center):
    """One row of the relation of (C, H, W), as a map."""
    f = features.reshape(len(features), -1).T
    if center:
        f = f - f.mean(axis=0)
    f = f / np.linalg.norm(f, axis=1, keepdims=True)
    i = pixel[0] * features.shape[2] + pixel[1]
    weights = [np.exp(f[i] @ f_j / tau) for f_j in f]
    if exclude_self:
        weights[i] = 0
    return np.reshape(weights, features.shape[1:]) / np.sum(weights)


@pytest.mark.parametrize(
    'options',
    [
        dict(exclude_self=False, center=False),
        dict(exclude_self=True, center=True),
    ],
)
def test_rows_equal_loops_over_pixels(options):
    student, teacher = random(2, 3, 4, 6), random(2, 5, 4, 6, seed=1)
    # The corners of the pixels' squares, and the last place inside the map.
    points, pixels = (
        [(0.25, 0.5), (0.99, 0.99), (0, 0)],
        [(1, 3), (3, 5), (0, 0)],
    )
    rows = relation_rows(student, teacher, points, tau=0.3, **options)
    for features, found in zip((student, teacher), rows):
        assert found.shape == (2, 3, 4, 6)
        for n in range(2):
            for q, pixel in enumerate(pixels):
                expected = reference_row(
                    features[n].numpy(), pixel, 0.3, **options
                )
                np.testing.assert_allclose(
                    found[n, q].numpy(), expected, rtol=1e-10
                )


def test_rows_of_all_pixels_make_up_the_loss():
    """Of maps of two sizes: the rows are those that are compared."""
    student, teacher = random(1, 3, 8, 12), random(1, 5, 4, 6, seed=1)
    points = [
        ((y + 0.5) / 4, (x + 0.5) / 6) for y in range(4) for x in range(6)
    ]
    rows_s, rows_t = relation_rows(student, teacher, points)
    kl = (rows_t * (rows_t / rows_s).log()).sum() / len(points)
    assert kl.item() == pytest.approx(relation_kl(student, teacher).item())


def test_rows_take_no_gradient():
    student = random(1, 3, 4, 6).requires_grad_()
    for rows in relation_rows(student, student, [(0.5, 0.5)]):
        assert not rows.requires_grad


@pytest.mark.parametrize(
    'points', [[(0.5, 1.0)], [(-0.1, 0.5)], [(0.5,)], (0.5, 0.5)]
)
def test_wrong_points_are_named(points):
    with pytest.raises(ValueError, match='points to be fractions'):
        relation_rows(random(1, 3, 4, 6), random(1, 3, 4, 6), points)
