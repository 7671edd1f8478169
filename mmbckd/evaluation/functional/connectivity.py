"""Whether the regions of a segmentation hang together as the truth's do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy import ndarray
from scipy import sparse

from .label_maps import check_label_maps, class_masks


class ConnectivityCounts(NamedTuple):
    """Numbers of regions and holes of one image, int64, (C, ) each.

    Attributes:
        truth_regions (ndarray): Connected components of the truth (Betti 0).
        pred_regions (ndarray): Connected components of the prediction.
        truth_holes (ndarray): Holes of the truth (Betti 1).
        pred_holes (ndarray): Holes of the prediction.
        whole (ndarray): Components of the truth that came back in one piece.
        stray (ndarray): Components of the prediction that touch no truth.
    """

    truth_regions: ndarray
    pred_regions: ndarray
    truth_holes: ndarray
    pred_holes: ndarray
    whole: ndarray
    stray: ndarray


class ConnectivityScores(NamedTuple):
    """Means over images per class, (C, ) each; NaN where there were none.

    Attributes:
        b0_err (ndarray): Absolute error in the number of components, at
            least 0, over the images that the class occurs in.
        b1_err (ndarray): The same for holes.
        whole (ndarray): Share, from 0 to 1, of true regions that came back in
            one piece, over the images whose truth holds the class.
        stray (ndarray): Share, from 0 to 1, of predicted fragments that touch
            no true region, over the images whose prediction holds the class.
    """

    b0_err: ndarray
    b1_err: ndarray
    whole: ndarray
    stray: ndarray


def label_regions(
    mask: ndarray, min_area: int = 0
) -> tuple[ndarray, ndarray, int]:
    """Label a mask's connected components and count its holes.

    Components are 8-connected and their background 4-connected, so that the
    number of components minus that of holes is the Euler number. What lies
    beyond the image is background: a bay that is open to the image's border
    is no hole.

    Args:
        mask (ndarray): 0 outside, 1 inside; bool or uint8.
        min_area (int): Components of fewer pixels are erased from the mask;
            of the holes that there are then, those of fewer pixels are not
            counted. Defaults to 0.

    Returns:
        tuple[ndarray, ndarray, int]: The labels, int32, 0 outside and
        1 ... n in the components; the areas of the n components in pixels;
        the number of holes.

    Shape:
        - mask: (H, W)
        - output: (H, W), (n, ), a number

    Example:
        >>> ring = np.uint8([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
        >>> _, areas, holes = label_regions(ring)
        >>> areas.tolist(), holes
        ([8], 1)
    """
    inside = np.asarray(mask).astype(bool)
    # OpenCV's own statistics take ten times as long as its labelling; areas
    # alone are faster counted from the labels.
    number, labels = cv2.connectedComponents(
        inside.view(np.uint8), connectivity=8
    )
    areas = np.bincount(labels[inside], minlength=number)[1:]
    if (areas < min_area).any():
        kept = areas >= min_area
        renumber = np.zeros(number, np.int32)
        renumber[1:][kept] = np.arange(1, kept.sum() + 1)
        labels[inside] = renumber[labels[inside]]
        areas = areas[kept]
        inside = labels > 0
    if not len(areas):
        return labels, areas, 0

    # Framed, so that all of the background that reaches the image's border
    # is one component, the frame's; the others are the holes.
    background = cv2.copyMakeBorder(
        (~inside).view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1
    )
    number, outside = cv2.connectedComponents(background, connectivity=4)
    if min_area <= 1:
        return labels, areas, number - 2  # without the mask and the frame's
    holes = outside[(outside > 0) & (outside != outside[0, 0])]
    return labels, areas, int((np.bincount(holes) >= min_area).sum())


def connectivity_counts(
    prediction: ndarray,
    truth: ndarray,
    num_classes: int,
    *,
    min_area: int = 0,
    ignore_index: int = 255,
) -> ConnectivityCounts:
    r"""Count, for one image, what its connectivity scores are made of.

    Regions and holes of each class are those of :func:`label_regions`. A true
    region :math:`T` is *whole* if exactly one predicted region :math:`P` of
    its class shares a pixel with it, and :math:`2\,|P \cap T| \ge |T|`. Two
    true regions that the prediction joins may thus both be whole; Betti 0
    tells. A predicted region is *stray* if it shares no pixel with any true
    region of its class. Pixels that the truth ignores are taken out of both
    maps first.

    Args:
        prediction (ndarray): Predicted class of every pixel, integers.
        truth (ndarray): True class of every pixel, or ``ignore_index``.
        num_classes (int): Number of classes C.
        min_area (int): Regions of fewer pixels, of truth and prediction, are
            erased first, and smaller holes not counted. Defaults to 0.
        ignore_index (int): Label of ignored pixels. Defaults to 255.

    Returns:
        ConnectivityCounts: All 0 for a class that does not occur.

    Raises:
        TypeError: If a map is no array of integers.
        ValueError: If a shape, a label or ``min_area`` is invalid.

    Shape:
        - prediction, truth: (H, W)

    Example:
        >>> truth = np.array([[1, 1, 1, 1, 1, 0]])
        >>> prediction = np.array([[1, 1, 0, 1, 1, 0]])  # broken in two
        >>> counts = connectivity_counts(prediction, truth, 2)
        >>> counts.pred_regions[1], counts.whole[1]
        (np.int64(2), np.int64(0))
    """
    _check_min_area(min_area)
    prediction, truth, _ = check_label_maps(
        prediction, truth, num_classes, ignore_index
    )
    counts = np.zeros((len(ConnectivityCounts._fields), num_classes), np.int64)
    for c, predicted, true, _ in class_masks(prediction, truth, num_classes):
        p, t, whole, num_touching = _compare_regions(predicted, true, min_area)
        counts[:, c] = (
            len(t.areas),
            len(p.areas),
            t.holes,
            p.holes,
            whole.sum(),
            len(p.areas) - num_touching,
        )
    return ConnectivityCounts(*counts)


def broken_regions(
    prediction: ndarray,
    truth: ndarray,
    num_classes: int,
    *,
    min_area: int = 0,
    ignore_index: int = 255,
) -> ndarray:
    """Mark the true regions that did not come back in one piece.

    They are those that are not *whole* in the sense of
    :func:`connectivity_counts`: broken up, found by less than half, or not
    found at all.

    Args:
        prediction (ndarray): Predicted class of every pixel, integers.
        truth (ndarray): True class of every pixel, or ``ignore_index``.
        num_classes (int): Number of classes C.
        min_area (int): Regions of fewer pixels, of truth and prediction, are
            erased first. Defaults to 0.
        ignore_index (int): Label of ignored pixels. Defaults to 255.

    Returns:
        ndarray: All pixels of these regions, of any class, bool.

    Raises:
        TypeError: If a map is no array of integers.
        ValueError: If a shape, a label or ``min_area`` is invalid.

    Shape:
        - prediction, truth: (H, W)
        - output: (H, W)

    Example:
        >>> truth = np.array([[1, 1, 1, 1, 1, 0]])
        >>> prediction = np.array([[1, 1, 0, 1, 1, 0]])  # broken in two
        >>> broken_regions(prediction, truth, 2).astype(int)
        array([[1, 1, 1, 1, 1, 0]])
    """
    _check_min_area(min_area)
    prediction, truth, _ = check_label_maps(
        prediction, truth, num_classes, ignore_index
    )
    broken = np.zeros(truth.shape, bool)
    for _, predicted, true, window in class_masks(
        prediction, truth, num_classes
    ):
        _, t, whole, _ = _compare_regions(predicted, true, min_area)
        broken[window] |= np.append(False, ~whole)[t.labels]
    return broken


class _Regions(NamedTuple):
    """What :func:`label_regions` returns."""

    labels: ndarray
    areas: ndarray
    holes: int


def _compare_regions(
    predicted: ndarray, true: ndarray, min_area: int
) -> tuple[_Regions, _Regions, ndarray, int]:
    """Regions of the masks of a class, and how those of the two meet.

    Returns the predicted regions, the true ones, which of the true ones are
    whole, and how many of the predicted ones touch a true one.
    """
    p = _Regions(*label_regions(predicted, min_area))
    t = _Regions(*label_regions(true, min_area))
    both = (predicted & true).view(bool)
    if min_area > 1:  # some of it may have been erased
        both &= (p.labels > 0) & (t.labels > 0)
    t_of, p_of = t.labels[both] - 1, p.labels[both] - 1
    # Pixels that each pair of a true and a predicted region shares.
    shared = sparse.coo_array(
        (np.ones(len(t_of), np.int64), (t_of, p_of)),
        shape=(len(t.areas), len(p.areas)),
    ).tocsr()
    pieces = np.diff(shared.indptr)
    covered = np.bincount(t_of, minlength=len(t.areas))
    whole = (pieces == 1) & (2 * covered >= t.areas)
    return p, t, whole, len(np.unique(shared.indices))


def _check_min_area(min_area: int) -> None:
    if min_area < 0:
        raise ValueError(
            'Expected min_area to be a number of pixels, 0 or more, but '
            f'got {min_area}; pass 0 to keep everything'
        )


def connectivity_scores(
    counts: Sequence[ConnectivityCounts],
) -> ConnectivityScores:
    """Means over images of what :func:`connectivity_counts` counted.

    Args:
        counts (Sequence[ConnectivityCounts]): One per image.

    Returns:
        ConnectivityScores: Per class. An image takes part in a class's errors
        if truth or prediction hold a region of it, in ``whole`` if the truth
        does, in ``stray`` if the prediction does.
    """
    n = ConnectivityCounts(*(np.stack(field) for field in zip(*counts)))
    occurs = (n.truth_regions > 0) | (n.pred_regions > 0)
    return ConnectivityScores(
        b0_err=_mean(abs(n.pred_regions - n.truth_regions), occurs),
        b1_err=_mean(abs(n.pred_holes - n.truth_holes), occurs),
        whole=_mean(
            n.whole / np.maximum(n.truth_regions, 1), n.truth_regions > 0
        ),
        stray=_mean(
            n.stray / np.maximum(n.pred_regions, 1), n.pred_regions > 0
        ),
    )


def _mean(values: ndarray, where: ndarray) -> ndarray:
    """Mean over the first axis where asked for; NaN where that is nowhere."""
    with np.errstate(invalid='ignore'):
        return np.where(where, values, 0).sum(0) / where.sum(0)
