"""Pairs of label maps, taken apart into the masks of their classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy import ndarray


class ClassMasks(NamedTuple):
    """The masks of one class, cut out where it occurs.

    Attributes:
        label (int): The class.
        prediction (ndarray): Its predicted mask, uint8 of 0 and 1, (h, w).
        truth (ndarray): Its true mask, uint8 of 0 and 1, (h, w).
        window (tuple[slice, slice]): Where in the image the masks lie.
    """

    label: int
    prediction: ndarray
    truth: ndarray
    window: tuple[slice, slice]


def check_label_maps(
    prediction: ndarray, truth: ndarray, num_classes: int, ignore_index: int
) -> tuple[ndarray, ndarray, ndarray]:
    """Check two label maps and make them small and comparable.

    Args:
        prediction (ndarray): Predicted class of every pixel, integers. What
            it says where ``truth`` is ignored does not matter.
        truth (ndarray): True class of every pixel, or ``ignore_index``.
        num_classes (int): Number of classes C, at most 65535.
        ignore_index (int): The label that ``truth`` gives ignored pixels.

    Returns:
        tuple[ndarray, ndarray, ndarray]: Prediction and truth, both uint8
        (uint16 for more than 255 classes) with the type's greatest value at
        ignored pixels, and where the truth is valid, bool.

    Raises:
        TypeError: If a map is no array of integers.
        ValueError: If the shapes are wrong or differ, or a label is no class.

    Shape:
        - prediction, truth and all that is returned: (H, W)
    """
    if not 1 <= num_classes <= np.iinfo(np.uint16).max:
        raise ValueError(
            f'Expected num_classes from 1 to 65535, but got {num_classes}'
        )
    for name, labels in (('prediction', prediction), ('truth', truth)):
        if not (
            isinstance(labels, ndarray)
            and np.issubdtype(labels.dtype, np.integer)
        ):
            got = getattr(labels, 'dtype', type(labels).__name__)
            raise TypeError(
                f'Expected {name} to be a NumPy array of integers, but '
                f'got {got}; pass one class index per pixel'
            )
        if labels.ndim != 2 or labels.size == 0:
            raise ValueError(
                f'Expected {name} of shape (H, W), neither of them '
                f'0, but got {labels.shape}; pass one image'
            )
    if prediction.shape != truth.shape:
        raise ValueError(
            'Expected prediction and truth of one size, but got '
            f'{prediction.shape} and {truth.shape}; resize the prediction to '
            'the truth (mmseg does where `ori_shape` is that of the truth)'
        )

    valid = truth != ignore_index
    dtype = np.uint8 if num_classes <= 255 else np.uint16
    maps = []
    for name, labels in (('prediction', prediction), ('truth', truth)):
        low = labels.min(where=valid, initial=0)
        high = labels.max(where=valid, initial=0)
        if low < 0 or high >= num_classes:
            raise ValueError(
                f'Expected {name} to hold classes from 0 to '
                f'{num_classes - 1}, but got {low if low < 0 else high}; '
                'check the number of classes, reduce_zero_label and '
                f'ignore_index={ignore_index}'
            )
        small = labels.astype(dtype)
        small[~valid] = np.iinfo(dtype).max
        maps.append(small)
    return maps[0], maps[1], valid


def class_masks(
    prediction: ndarray, truth: ndarray, num_classes: int
) -> Iterator[ClassMasks]:
    """The masks of each class that either map holds.

    They are cut out one pixel around the class, so that nothing is computed
    where a class is not, and yet every pixel of it has its neighbors.

    Args:
        prediction (ndarray): Predicted labels of :func:`check_label_maps`.
        truth (ndarray): True labels of it.
        num_classes (int): Number of classes.

    Yields:
        ClassMasks: In the order of the classes.

    Shape:
        - prediction, truth: (H, W)
    """
    for label in range(num_classes):
        predicted = (prediction == label).view(np.uint8)
        true = (truth == label).view(np.uint8)
        x, y, w, h = cv2.boundingRect(predicted | true)
        if w:
            window = (
                slice(max(y - 1, 0), y + h + 1),
                slice(max(x - 1, 0), x + w + 1),
            )
            yield ClassMasks(label, predicted[window], true[window], window)
