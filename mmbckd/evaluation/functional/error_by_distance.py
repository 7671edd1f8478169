"""How far from the true boundaries the errors of a segmentation lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from scipy.ndimage import distance_transform_edt

from .label_maps import check_label_maps

#: Upper ends of the bins of distances, in pixels.
DISTANCES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, math.inf)


class DistanceCounts(NamedTuple):
    """Numbers of pixels by distance, int64, that add up over images.

    Attributes:
        errors (ndarray): Those that are wrong in each of B bins, (B, ).
        pixels (ndarray): All in each bin, (B, ).
    """

    errors: ndarray
    pixels: ndarray


def boundary_distance(truth: ndarray, valid: ndarray) -> ndarray:
    """Distance of every valid pixel to the nearest one of another class.

    It is Euclidean and between the pixels' centers: 1 on either side of a
    straight edge, as in
    :func:`~mmbckd.evaluation.functional.boundary.trimap_band`.

    Args:
        truth (ndarray): Labels, integers.
        valid (ndarray): Which pixels are not ignored, bool. The others are no
            class, and no boundary either.

    Returns:
        ndarray: The distances in pixels, float64, at least 1; infinite where
        no other class occurs, and in ignored pixels.

    Shape:
        - truth, valid: (H, W)
        - output: (H, W)

    Example:
        >>> labels = np.array([[0, 0, 0, 1, 1]])
        >>> boundary_distance(labels, labels < 255)
        array([[3., 2., 1., 1., 2.]])
    """
    distance = np.full(truth.shape, np.inf)
    for label in np.unique(truth[valid]):
        own = valid & (truth == label)
        other = valid & ~own
        if other.any():
            distance[own] = distance_transform_edt(~other)[own]
    return distance


def errors_by_distance(
    prediction: ndarray,
    truth: ndarray,
    num_classes: int,
    *,
    distances: Sequence[float] = DISTANCES,
    ignore_index: int = 255,
) -> DistanceCounts:
    """Count, for one image, wrong pixels by :func:`boundary_distance`.

    Args:
        prediction (ndarray): Predicted class of every pixel, integers.
        truth (ndarray): True class of every pixel, or ``ignore_index``.
        num_classes (int): Number of classes.
        distances (Sequence[float]): Upper ends of the bins in pixels, which
            belong to them; pixels beyond the last are not counted. Defaults
            to :data:`DISTANCES`.
        ignore_index (int): Label of ignored pixels. Defaults to 255.

    Returns:
        DistanceCounts: The counts of this image.

    Raises:
        TypeError: If a map is no array of integers.
        ValueError: If a shape or a label is invalid, or if the distances do
            not increase.

    Shape:
        - prediction, truth: (H, W)

    Example:
        >>> truth = np.array([[0, 0, 0, 1, 1]])
        >>> prediction = np.array([[1, 0, 1, 1, 1]])
        >>> counts = errors_by_distance(
        ...     prediction, truth, 2, distances=(1, 2, 3))
        >>> counts.errors.tolist(), counts.pixels.tolist()
        ([1, 0, 1], [2, 2, 1])
    """
    if not len(distances) or not (np.diff(distances) > 0).all():
        raise ValueError(
            f'Expected distances that increase, but got {tuple(distances)}.'
        )
    prediction, truth, valid = check_label_maps(
        prediction, truth, num_classes, ignore_index
    )
    number = len(distances)
    bins = np.searchsorted(distances, boundary_distance(truth, valid)[valid])
    wrong = (prediction != truth)[valid]
    return DistanceCounts(
        *(
            np.bincount(counted, minlength=number)[:number]
            for counted in (bins[wrong], bins)
        )
    )
