"""Filters of label maps, against brute force and scikit-image."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from skimage.measure import label as label_regions
from skimage.morphology import remove_small_objects

from mmbckd.evaluation.functional.label_filters import (
    majority_filter,
    remove_fragments,
)


def noise(grain, num_classes=4, size=(30, 23)):
    values = np.random.default_rng(0).random((num_classes, *size))
    return gaussian_filter(values, (0, grain, grain)).argmax(0)


@pytest.mark.parametrize('size', [1, 3, 5])
def test_majority_is_the_most_frequent_label_around_a_pixel(size):
    labels, reach = noise(0.6), size // 2
    filtered = majority_filter(labels, size)
    for y, x in np.ndindex(labels.shape):
        window = labels[
            max(0, y - reach) : y + reach + 1,
            max(0, x - reach) : x + reach + 1,
        ]
        votes = np.bincount(window.ravel(), minlength=4)
        own = labels[y, x]
        most = own if votes[own] == votes.max() else votes.argmax()
        assert filtered[y, x] == most


@pytest.mark.parametrize('size', [0, 2, -3])
def test_neighborhood_without_a_center_is_refused(size):
    with pytest.raises(ValueError, match=f'odd size .* got {size}'):
        majority_filter(np.zeros((3, 3), int), size)


def test_small_regions_get_the_nearest_label_that_stays():
    labels, min_area = noise(1.0), 12
    kept = np.zeros(labels.shape, bool)
    for c in range(4):
        regions = label_regions(labels == c, connectivity=2)
        kept |= remove_small_objects(regions, min_area) > 0
    assert 0 < (~kept).sum() < kept.sum()
    filtered = remove_fragments(labels, min_area)
    assert (filtered[kept] == labels[kept]).all()
    left = np.argwhere(kept)
    for y, x in np.argwhere(~kept):
        distance = cdist([(y, x)], left)[0]
        nearest = left[distance == distance.min()]
        assert filtered[y, x] in labels[tuple(nearest.T)]


def test_map_of_fragments_only_stays_as_it_is():
    labels = np.arange(9).reshape(3, 3)
    assert (remove_fragments(labels, 2) == labels).all()
