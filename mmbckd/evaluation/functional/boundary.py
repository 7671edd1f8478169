"""How well a segmentation fits the truth at and near its boundaries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy import ndarray

from .label_maps import check_label_maps, class_masks


class BoundaryCounts(NamedTuple):
    """Numbers of pixels, int64, that add up over the images of a data set.

    Attributes:
        biou (ndarray): Intersection and union of the boundary regions,
            (2, C).
        trimap (ndarray): Intersection and union of the classes within each
            of W bands, (W, 2, C).
        contour (ndarray): At each of T tolerances, the predicted contour
            pixels that are near a true one, all predicted, the true contour
            pixels that are near a predicted one, all true, (T, 4, C).
    """

    biou: ndarray
    trimap: ndarray
    contour: ndarray


class BoundaryScores(NamedTuple):
    """Scores per class, from 0 to 1, or NaN where there was nothing to score.

    Attributes:
        biou (ndarray): Boundary IoU, (C, ).
        trimap_iou (ndarray): IoU within each of W bands, (W, C).
        f1 (ndarray): Boundary F-score at each of T tolerances, (T, C).
    """

    biou: ndarray
    trimap_iou: ndarray
    f1: ndarray


class BoundaryErrors(NamedTuple):
    """Where a segmentation and the truth draw boundaries differently.

    Attributes:
        missed (ndarray): True contour pixels that were not found, bool,
            (H, W).
        spurious (ndarray): Predicted contour pixels where there is nothing
            to find, bool, (H, W).
    """

    missed: ndarray
    spurious: ndarray


def boundary_width(height: int, width: int, ratio: float = 0.02) -> int:
    """Width d of the boundary region for Boundary IoU.

    Args:
        height (int): Height of the image in pixels.
        width (int): Width of the image in pixels.
        ratio (float): Share of the image's diagonal. Defaults to 0.02.

    Returns:
        int: The share in pixels, rounded, at least 1.

    Raises:
        ValueError: If ``ratio`` is not positive and finite.

    References:
        Cheng, Girshick, Dollar, Berg, Kirillov. Boundary IoU: Improving
        Object-Centric Image Segmentation Evaluation. CVPR 2021.

    Example:
        >>> boundary_width(1024, 2048)
        46
    """
    if not (math.isfinite(ratio) and ratio > 0):
        raise ValueError(
            'Expected ratio to be positive and finite, but got '
            f'{ratio}; pass e.g. ratio=0.02'
        )
    return max(1, round(ratio * math.hypot(height, width)))


def boundary_region(mask: ndarray, width: int) -> ndarray:
    """Pixels of a mask that are at most ``width`` from its outside.

    The mask minus its erosion with a 3x3 square in ``width`` steps. What is
    beyond the image's border counts as outside.

    Args:
        mask (ndarray): 0 outside, 1 inside; bool or uint8.
        width (int): Steps d, at least 1; see :func:`boundary_width`.

    Returns:
        ndarray: The boundary region, 0 or 1, uint8.

    Raises:
        ValueError: If ``width`` is less than 1.

    Shape:
        - mask: (H, W)
        - output: (H, W)

    References:
        Cheng et al. Boundary IoU. CVPR 2021, and their ``boundary_utils.py``.

    Example:
        >>> boundary_region(np.ones((3, 4), bool), 1)
        array([[1, 1, 1, 1],
               [1, 0, 0, 1],
               [1, 1, 1, 1]], dtype=uint8)
    """
    if width < 1:
        raise ValueError(
            f'Expected width to be at least 1, but got {width}; take '
            'it from boundary_width(height, width)'
        )
    mask = np.asarray(mask).astype(np.uint8, copy=False)
    # d steps of a 3x3 square are one step of a square of 2d + 1, which
    # OpenCV does row by row and column by column.
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    inner = cv2.erode(
        mask, square, borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    return mask - inner


def contour_pixels(mask: ndarray, valid: ndarray) -> ndarray:
    """Pixels of a mask one of whose 8 neighbors is valid and not in it.

    That is the mask minus one erosion with a 3x3 square, except that neither
    the image's border nor the edge of an ignored area makes a contour: any
    prediction would find those.

    Args:
        mask (ndarray): 0 outside and where ignored, 1 inside; bool or uint8.
        valid (ndarray): Which pixels are not ignored, bool.

    Returns:
        ndarray: The contour, 0 or 1, uint8.

    Shape:
        - mask, valid: (H, W)
        - output: (H, W)

    Example:
        >>> mask = np.array([[1, 1, 1, 0, 0]], bool)
        >>> contour_pixels(mask, np.ones_like(mask))
        array([[0, 0, 1, 0, 0]], dtype=uint8)
    """
    mask = np.asarray(mask).astype(np.uint8, copy=False)
    # OpenCV's own border never wins a minimum.
    eroded = cv2.erode(mask | ~valid, np.ones((3, 3), np.uint8))
    return mask & ~np.asarray(eroded, np.uint8)


def trimap_band(truth: ndarray, valid: ndarray, width: float) -> ndarray:
    """Valid pixels with a valid pixel of another label within ``width``.

    The distance is Euclidean and between the pixels' centers, so that the
    band along a straight edge is ``width`` pixels wide on either side.

    Args:
        truth (ndarray): Labels, uint8 or uint16. Those of pixels that are
            not valid do not matter.
        valid (ndarray): Which pixels are not ignored, bool.
        width (float): Greatest distance in pixels, at least 1.

    Returns:
        ndarray: The band, bool.

    Raises:
        ValueError: If ``width`` is less than 1 or not finite.

    Shape:
        - truth, valid: (H, W)
        - output: (H, W)

    References:
        Kohli, Ladicky, Torr. Robust Higher Order Potentials for Enforcing
        Label Consistency. IJCV 2009, the trimap evaluation.

    Example:
        >>> labels = np.uint8([[0, 0, 0, 1, 1, 1]])
        >>> trimap_band(labels, labels < 255, 2).astype(int)
        array([[0, 1, 1, 1, 1, 0]])
    """
    disk = _disk(width)
    # The greatest and the least label that are near. An ignored pixel takes
    # part in neither, nor does what is beyond the border.
    high = cv2.dilate(np.where(valid, truth, truth.dtype.type(0)), disk)
    low = cv2.erode(
        np.where(valid, truth, truth.dtype.type(np.iinfo(truth.dtype).max)),
        disk,
    )
    return valid & (high != low)


def boundary_counts(
    prediction: ndarray,
    truth: ndarray,
    num_classes: int,
    *,
    ratio: float = 0.02,
    trimap_widths: Sequence[float] = (1, 3, 5),
    tolerances: Sequence[float] = (1, 3, 5),
    ignore_index: int = 255,
) -> BoundaryCounts:
    r"""Count, for one image, what its boundary scores are made of.

    - Boundary IoU: :math:`|G_d \cap P_d|` and :math:`|G_d \cup P_d|` of each
      class's :func:`boundary_region`; :math:`d` is :func:`boundary_width`.
    - Trimap IoU: :math:`|G \cap P|` and :math:`|G \cup P|` of each class
      within :func:`trimap_band`.
    - Boundary F-score: :func:`contour_pixels` of each class, and those within
      a Euclidean distance of :math:`\theta` of the other map's. A pixel may
      be near any number of others; nothing is matched one to one.

    Pixels that the truth ignores are taken out of both maps first.

    Args:
        prediction (ndarray): Predicted class of every pixel, integers.
        truth (ndarray): True class of every pixel, or ``ignore_index``.
        num_classes (int): Number of classes C.
        ratio (float): Width of the boundary region as a fraction of the
            image's diagonal. Defaults to 0.02.
        trimap_widths (Sequence[float]): Widths of the bands in pixels, at
            least 1 each. Defaults to (1, 3, 5).
        tolerances (Sequence[float]): Distances :math:`\theta` in pixels, at
            least 1 each. Defaults to (1, 3, 5).
        ignore_index (int): Label of ignored pixels. Defaults to 255.

    Returns:
        BoundaryCounts: To be added up with :func:`sum_counts`.

    Raises:
        TypeError: If a map is no array of integers.
        ValueError: If a shape, a label, a width or a tolerance is invalid.

    Shape:
        - prediction, truth: (H, W)

    References:
        Boundary IoU: Cheng et al., CVPR 2021. Trimap: Kohli et al., IJCV
        2009. F-score per class: Csurka, Larlus, Perronnin. What is a good
        evaluation measure for semantic segmentation? BMVC 2013, after Martin
        et al., PAMI 2004; these score each image, here counts are summed
        over the data set.
    """
    prediction, truth, valid = check_label_maps(
        prediction, truth, num_classes, ignore_index
    )
    height, width = truth.shape
    d = boundary_width(height, width, ratio)
    disks = [_disk(tolerance) for tolerance in tolerances]
    biou = np.zeros((2, num_classes), np.int64)
    trimap = np.zeros((len(trimap_widths), 2, num_classes), np.int64)
    contour = np.zeros((len(disks), 4, num_classes), np.int64)

    for c, predicted, true, window in class_masks(
        prediction, truth, num_classes
    ):
        p, t = boundary_region(predicted, d), boundary_region(true, d)
        biou[:, c] = _count(p & t), _count(p | t)
        if disks:
            p = contour_pixels(predicted, valid[window])
            t = contour_pixels(true, valid[window])
            contour[:, 1, c], contour[:, 3, c] = _count(p), _count(t)
            for row, disk in zip(contour, disks):
                row[0, c] = _count(p & cv2.dilate(t, disk))
                row[2, c] = _count(t & cv2.dilate(p, disk))

    for row, band_width in zip(trimap, trimap_widths):
        band = trimap_band(truth, valid, band_width)
        p, t = prediction[band], truth[band]
        intersection, p, t = (
            np.bincount(x, minlength=num_classes) for x in (t[t == p], p, t)
        )
        row[:] = intersection, p + t - intersection
    return BoundaryCounts(biou, trimap, contour)


def sum_counts(counts: Iterable[BoundaryCounts]) -> BoundaryCounts:
    """Add the counts of images up.

    Args:
        counts (Iterable[BoundaryCounts]): One or more, of one shape.

    Returns:
        BoundaryCounts: Their sum.
    """
    return BoundaryCounts(*(np.sum(arrays, axis=0) for arrays in zip(*counts)))


def boundary_scores(counts: BoundaryCounts) -> BoundaryScores:
    r"""Turn counts, of an image or summed over many, into scores.

    The F-score is :math:`2PR / (P + R)` with the precision :math:`P`, the
    share of predicted contour pixels near a true one, and the recall
    :math:`R`, the reverse. It is 0 where only one of the maps has a contour.

    Args:
        counts (BoundaryCounts): What :func:`boundary_counts` returned.

    Returns:
        BoundaryScores: NaN where a class has no pixels to score: it is absent
        (or, for the F-score, nowhere meets another class).
    """
    near_p, all_p, near_t, all_t = counts.contour.swapaxes(0, 1)
    with np.errstate(invalid='ignore'):
        biou = counts.biou[0] / counts.biou[1]
        trimap_iou = counts.trimap[:, 0] / counts.trimap[:, 1]
    # With one of the contours empty nothing is near, so P = R = 0.
    precision = near_p / np.maximum(all_p, 1)
    recall = near_t / np.maximum(all_t, 1)
    total = precision + recall
    f1 = np.divide(
        2 * precision * recall,
        total,
        out=np.zeros_like(total),
        where=total > 0,
    )
    f1[all_p + all_t == 0] = np.nan
    return BoundaryScores(biou, trimap_iou, f1)


def boundary_errors(
    prediction: ndarray,
    truth: ndarray,
    num_classes: int,
    *,
    tolerance: float = 2.0,
    ignore_index: int = 255,
) -> BoundaryErrors:
    """Mark the contour pixels that the boundary F-score counts as wrong.

    A pixel is *missed* if it is one of the :func:`contour_pixels` of a true
    class and no predicted contour pixel of that class is within
    ``tolerance``; *spurious* the other way round. It can be both, for two
    classes. Pixels that the truth ignores are taken out of both maps first.

    Args:
        prediction (ndarray): Predicted class of every pixel, integers.
        truth (ndarray): True class of every pixel, or ``ignore_index``.
        num_classes (int): Number of classes C.
        tolerance (float): Euclidean distance in pixels, at least 1. Defaults
            to 2.0.
        ignore_index (int): Label of ignored pixels. Defaults to 255.

    Returns:
        BoundaryErrors: The missed and the spurious pixels of all classes.

    Raises:
        TypeError: If a map is no array of integers.
        ValueError: If a shape, a label or ``tolerance`` is invalid.

    Shape:
        - prediction, truth: (H, W)
        - output: (H, W), (H, W)

    Example:
        >>> truth = np.array([[0, 0, 1, 1, 1, 1, 1, 1]])
        >>> prediction = np.array([[0, 0, 0, 0, 0, 0, 1, 1]])
        >>> missed, spurious = boundary_errors(prediction, truth, 2)
        >>> missed.astype(int)
        array([[0, 1, 1, 0, 0, 0, 0, 0]])
        >>> spurious.astype(int)
        array([[0, 0, 0, 0, 0, 1, 1, 0]])
    """
    prediction, truth, valid = check_label_maps(
        prediction, truth, num_classes, ignore_index
    )
    disk = _disk(tolerance)
    errors = BoundaryErrors(
        np.zeros(truth.shape, bool), np.zeros(truth.shape, bool)
    )
    for _, predicted, true, window in class_masks(
        prediction, truth, num_classes
    ):
        p = contour_pixels(predicted, valid[window])
        t = contour_pixels(true, valid[window])
        errors.missed[window] |= t > cv2.dilate(p, disk)
        errors.spurious[window] |= p > cv2.dilate(t, disk)
    return errors


def _disk(radius: float) -> ndarray:
    """Displacements of a length of at most ``radius``, as an OpenCV kernel."""
    if not (math.isfinite(radius) and radius >= 1):
        raise ValueError(
            'Expected trimap_widths and tolerances to be finite and at least '
            f'1 pixel, but got {radius}; pass e.g. (1, 3, 5)'
        )
    reach = math.floor(radius)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return (y * y + x * x <= radius * radius).astype(np.uint8)


_count = cv2.countNonZero
