"""Maps of errors against loops over pixels and the scores they belong to."""

import math

import numpy as np
import pytest
from scipy import ndimage

from mmbckd.evaluation.functional import (
    boundary_counts,
    boundary_errors,
    broken_regions,
    connectivity_counts,
)

CLASSES = 4


def random_maps(seed, size=(15, 18), ignored=True):
    """Prediction and truth: blobs of classes, partly alike, some ignored."""
    rng = np.random.default_rng(seed)
    scores = ndimage.gaussian_filter(
        rng.normal(size=(2, CLASSES, *size)), (0, 0, 1.5, 1.5)
    )
    truth = scores[0].argmax(0)
    prediction = (scores[0] + 0.5 * scores[1]).argmax(0)
    if ignored:
        truth[rng.random(size) < 0.1] = 255
        truth[:4, :5] = 255
    return prediction, truth


# ------------------------------------------------- reference, pixel by pixel


def reference_contour(labels, c, valid):
    """Pixels of class c with a valid neighbor of another class."""
    height, width = labels.shape
    return [
        (y, x)
        for y in range(height)
        for x in range(width)
        if valid[y, x]
        and labels[y, x] == c
        and any(
            valid[v, u] and labels[v, u] != c
            for v in range(max(y - 1, 0), min(y + 2, height))
            for u in range(max(x - 1, 0), min(x + 2, width))
        )
    ]


def reference_boundary_errors(prediction, truth, tolerance):
    valid = truth != 255
    missed, spurious = np.zeros((2, *truth.shape), bool)
    for c in range(CLASSES):
        p = reference_contour(prediction, c, valid)
        t = reference_contour(truth, c, valid)
        for errors, own, other in ((missed, t, p), (spurious, p, t)):
            for pixel in own:
                if all(math.dist(pixel, q) > tolerance for q in other):
                    errors[pixel] = True
    return missed, spurious


def reference_regions(mask, min_area):
    labels, number = ndimage.label(mask, np.ones((3, 3)))
    regions = (labels == i for i in range(1, number + 1))
    return [r for r in regions if r.sum() >= min_area]


def reference_broken(prediction, truth, min_area):
    broken = np.zeros(truth.shape, bool)
    for c in range(CLASSES):
        predicted = reference_regions(
            (prediction == c) & (truth != 255), min_area
        )
        for true in reference_regions(truth == c, min_area):
            pieces = [p for p in predicted if (p & true).any()]
            if len(pieces) != 1 or 2 * (pieces[0] & true).sum() < true.sum():
                broken |= true
    return broken


# --------------------------------------------------------------- boundaries


@pytest.mark.parametrize('tolerance', [1, 2, 2.5])
@pytest.mark.parametrize('seed', range(3))
def test_boundary_errors_equal_loops_over_pixels(seed, tolerance):
    prediction, truth = random_maps(seed)
    expected = reference_boundary_errors(prediction, truth, tolerance)
    errors = boundary_errors(prediction, truth, CLASSES, tolerance=tolerance)
    assert expected[0].any() and expected[1].any()
    assert errors.missed.dtype == errors.spurious.dtype == bool
    assert (errors.missed == expected[0]).all()
    assert (errors.spurious == expected[1]).all()


def test_tolerance_is_two_pixels_by_default():
    prediction, truth = random_maps(0)
    for found, expected in zip(
        boundary_errors(prediction, truth, CLASSES),
        reference_boundary_errors(prediction, truth, 2),
    ):
        assert (found == expected).all()


def test_boundary_errors_are_what_the_f_score_counts():
    prediction, truth = random_maps(4, size=(60, 80))
    near_p, all_p, near_t, all_t = (
        boundary_counts(prediction, truth, CLASSES, tolerances=[3])
        .contour[0]
        .sum(axis=1)
    )
    errors = boundary_errors(prediction, truth, CLASSES, tolerance=3)
    assert errors.missed.sum() == all_t - near_t > 0
    assert errors.spurious.sum() == all_p - near_p > 0


# ------------------------------------------------------------------ regions


@pytest.mark.parametrize('min_area', [0, 4])
@pytest.mark.parametrize('seed', range(4))
def test_broken_regions_equal_loops_over_regions(seed, min_area):
    prediction, truth = random_maps(seed)
    expected = reference_broken(prediction, truth, min_area)
    broken = broken_regions(prediction, truth, CLASSES, min_area=min_area)
    assert expected.any() and not expected.all()
    assert broken.dtype == bool
    assert (broken == expected).all()


@pytest.mark.parametrize('min_area', [0, 3])
def test_regions_that_are_not_broken_are_those_counted_as_whole(min_area):
    prediction, truth = random_maps(7, size=(60, 80))
    counts = connectivity_counts(prediction, truth, CLASSES, min_area=min_area)
    broken = broken_regions(prediction, truth, CLASSES, min_area=min_area)
    for c in range(CLASSES):
        regions = reference_regions(truth == c, min_area)
        whole = [r for r in regions if not (r & broken).any()]
        assert len(whole) == counts.whole[c]
        assert all(broken[r].all() or not broken[r].any() for r in regions)


@pytest.mark.parametrize(
    'prediction, is_broken',
    [
        ([0, 1, 1, 1, 1, 0], False),
        ([0, 1, 1, 0, 1, 0], True),
        ([0, 1, 0, 0, 0, 0], True),
        ([0, 0, 0, 0, 0, 0], True),
        ([1, 1, 1, 0, 0, 0], False),
    ],
    ids=['found', 'in two', 'a quarter', 'not', 'half'],
)
def test_region_is_broken_unless_one_piece_covers_half_of_it(
    prediction, is_broken
):
    truth = np.array([[0, 1, 1, 1, 1, 0]])
    broken = broken_regions(np.array([prediction]), truth, 2)
    assert (broken[truth == 1] == is_broken).all()


# -------------------------------------------------------------- all of them


@pytest.mark.parametrize('errors', [boundary_errors, broken_regions])
def test_nothing_is_wrong_with_the_truth(errors):
    _, truth = random_maps(0)
    prediction = np.where(truth == 255, 1, truth)
    assert not np.any(errors(prediction, truth, CLASSES))


@pytest.mark.parametrize('errors', [boundary_errors, broken_regions])
def test_prediction_where_the_truth_is_ignored_is_of_no_account(errors):
    prediction, truth = random_maps(1)
    other = np.where(truth == 255, (prediction + 1) % CLASSES, prediction)
    assert np.array_equal(
        errors(prediction, truth, CLASSES), errors(other, truth, CLASSES)
    )
    renamed = np.where(truth == 255, -1, truth)
    assert np.array_equal(
        errors(prediction, truth, CLASSES),
        errors(prediction, renamed, CLASSES, ignore_index=-1),
    )


@pytest.mark.parametrize(
    'errors, kwargs, message',
    [
        (boundary_errors, dict(tolerance=0.5), 'at least 1'),
        (broken_regions, dict(min_area=-1), 'min_area'),
        (boundary_errors, dict(num_classes=2), 'classes from 0 to 1'),
        (broken_regions, dict(num_classes=2), 'classes from 0 to 1'),
    ],
)
def test_wrong_arguments_are_named(errors, kwargs, message):
    prediction, truth = random_maps(0)
    with pytest.raises(ValueError, match=message):
        errors(prediction, truth, **dict(dict(num_classes=CLASSES), **kwargs))
