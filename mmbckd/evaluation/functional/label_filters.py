"""Filters of label maps: what makes them smoother or less fragmented."""

from __future__ import annotations

import cv2
import numpy as np
from numpy import ndarray
from scipy.ndimage import distance_transform_edt

from .connectivity import label_regions


def majority_filter(labels: ndarray, size: int) -> ndarray:
    """Give every pixel the most frequent label of its neighborhood.

    For two labels it is the median filter. What lies beyond the image does
    not count. Of labels that are equally frequent, the pixel's own is
    preferred, then the least.

    Args:
        labels (ndarray): Labels, integers.
        size (int): Side of the square neighborhood in pixels, odd.

    Returns:
        ndarray: The filtered labels.

    Raises:
        ValueError: If ``size`` is not odd or not positive.

    Shape:
        - labels, output: (H, W)

    Example:
        >>> majority_filter(np.array([[0, 0, 1, 0, 0]]), 3)
        array([[0, 0, 0, 0, 0]])
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(
            f'Expected an odd size of at least 1, but got {size}.'
        )
    filtered = labels.copy()
    most = np.zeros(labels.shape, np.float32)
    present = np.unique(labels)
    votes = {
        label: cv2.boxFilter(
            (labels == label).astype(np.float32),
            -1,
            (size, size),
            normalize=False,
            borderType=cv2.BORDER_CONSTANT,
        ).round()
        for label in present
    }
    for label in present:
        most[labels == label] = votes[label][labels == label]
    for label in present:
        more = votes[label] > most
        filtered[more], most[more] = label, votes[label][more]
    return filtered


def remove_fragments(labels: ndarray, min_area: int) -> ndarray:
    """Remove small connected regions of every label.

    Regions are those of
    :func:`~mmbckd.evaluation.functional.connectivity.label_regions`. Their
    pixels get the label of the nearest pixel that remains; a map of which
    nothing would remain stays as it is.

    Args:
        labels (ndarray): Labels, integers.
        min_area (int): Regions of fewer pixels are removed.

    Returns:
        ndarray: The labels without the fragments.

    Shape:
        - labels, output: (H, W)

    Example:
        >>> remove_fragments(np.array([[0, 0, 1, 2, 2]]), 2)[0].tolist()
        [0, 0, 0, 2, 2]
    """
    kept = np.zeros(labels.shape, bool)
    for label in np.unique(labels):
        regions, _, _ = label_regions(labels == label, min_area)
        kept |= regions > 0
    if not kept.any():
        return labels
    nearest = distance_transform_edt(
        ~kept, return_distances=False, return_indices=True
    )
    return labels[tuple(nearest)]
