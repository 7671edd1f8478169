"""Errors by their distance to a boundary, against brute force."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from mmbckd.evaluation.functional.error_by_distance import (
    DISTANCES,
    boundary_distance,
    errors_by_distance,
)

BLOCKS = np.kron(
    np.random.default_rng(0).integers(0, 4, (4, 5)), np.ones((7, 6), int)
)


def naive_distance(truth, valid):
    """The distance to every valid pixel of another class, the least."""
    points = np.argwhere(valid)
    labels = truth[valid]
    distance = np.full(truth.shape, np.inf)
    between = cdist(points, points)
    between[labels[:, None] == labels] = np.inf
    distance[valid] = between.min(1)
    return distance


def test_distance_is_that_to_the_nearest_pixel_of_another_class():
    truth = BLOCKS.copy()
    truth[5:9, 3:14] = 255
    valid = truth != 255
    np.testing.assert_allclose(
        boundary_distance(truth, valid), naive_distance(truth, valid)
    )


def test_one_class_has_no_boundary():
    truth = np.zeros((4, 5), int)
    truth[2] = 255
    assert np.isinf(boundary_distance(truth, truth != 255)).all()
    counts = errors_by_distance(truth * 0, truth, 2)
    assert counts.pixels.tolist() == [0] * (len(DISTANCES) - 1) + [15]


def test_pixels_and_errors_are_counted_in_the_bins_of_their_distances():
    truth = BLOCKS.copy()
    truth[5:9, 3:14] = 255
    rng = np.random.default_rng(1)
    prediction = np.where(rng.random(truth.shape) < 0.3, 3, truth)
    prediction[truth == 255] = 0
    counts = errors_by_distance(prediction, truth, 4)
    distance = naive_distance(truth, truth != 255)
    low = 0
    for index, high in enumerate(DISTANCES):
        inside = (distance > low) & (distance <= high) & (truth != 255)
        assert counts.pixels[index] == inside.sum()
        assert counts.errors[index] == (prediction != truth)[inside].sum()
        low = high
    assert counts.pixels.sum() == (truth != 255).sum()


def test_pixels_beyond_the_last_distance_are_left_out():
    truth = np.repeat([[0, 1]], 5, axis=1)
    counts = errors_by_distance(1 - truth, truth, 2, distances=(2, 4))
    assert counts.pixels.tolist() == counts.errors.tolist() == [4, 4]


@pytest.mark.parametrize('distances', [(), (2, 1), (1, 1)])
def test_distances_that_do_not_increase_are_refused(distances):
    labels = np.zeros((2, 2), int)
    with pytest.raises(ValueError, match='Expected distances that increase'):
        errors_by_distance(labels, labels, 2, distances=distances)
