"""Errors of a segmentation, drawn over its image."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy import ndarray

from ..evaluation.functional import boundary_errors, broken_regions

# RGB, of Okabe and Ito's palette. On a dark gray photograph they differ from
# one another and from it for all kinds of color vision.
ERROR_COLORS: dict[str, tuple[int, int, int]] = {
    'missed boundary': (240, 228, 66),
    'spurious boundary': (86, 180, 233),
    'broken region': (213, 94, 0),
}

# How much of the fill's color is mixed into a broken region.
_FILL_OPACITY = 0.4


def draw_errors(
    image: ndarray,
    prediction: ndarray,
    truth: ndarray,
    num_classes: int,
    *,
    tolerance: float = 2.0,
    min_area: int = 0,
    ignore_index: int = 255,
) -> ndarray:
    """Draw the errors at boundaries and of connectivity over an image.

    The image is shown in dark gray, so that all color is error: lines are
    :func:`~mmbckd.evaluation.functional.boundary_errors`, thick enough to be
    seen when the whole image is looked at, the translucent fill is
    :func:`~mmbckd.evaluation.functional.broken_regions`. :data:`ERROR_COLORS`
    is the legend.

    Args:
        image (ndarray): The image in RGB, uint8.
        prediction (ndarray): Predicted class of every pixel, integers.
        truth (ndarray): True class of every pixel, or ``ignore_index``.
        num_classes (int): Number of classes.
        tolerance (float): Euclidean distance in pixels, at least 1, up to
            which boundaries agree. Defaults to 2.0.
        min_area (int): Regions of fewer pixels cannot be broken, nor break
            any. Defaults to 0.
        ignore_index (int): Label of ignored pixels. Defaults to 255.

    Returns:
        ndarray: The drawing in RGB, uint8.

    Raises:
        TypeError: If the image is not uint8, or a map has no integers.
        ValueError: If a shape, a label, ``tolerance`` or ``min_area`` is
            invalid.

    Shape:
        - image: (H, W, 3)
        - prediction, truth: (H, W)
        - output: (H, W, 3)

    References:
        Okabe, Ito. Color Universal Design: how to make figures and
        presentations that are friendly to colorblind people. 2008.
    """
    if not (isinstance(image, ndarray) and image.dtype == np.uint8):
        got = getattr(image, 'dtype', type(image).__name__)
        raise TypeError(
            f'Expected image to be a NumPy array of uint8, but got {got}; '
            'pass RGB values from 0 to 255'
        )
    if image.shape != (*np.shape(truth), 3):
        raise ValueError(
            f'Expected image of shape {(*np.shape(truth), 3)}, that of the '
            f'truth, in RGB, but got {image.shape}; resize it to the truth'
        )
    missed, spurious = boundary_errors(
        prediction,
        truth,
        num_classes,
        tolerance=tolerance,
        ignore_index=ignore_index,
    )
    broken = broken_regions(
        prediction,
        truth,
        num_classes,
        min_area=min_area,
        ignore_index=ignore_index,
    )

    drawing = dim(image)
    fill = np.array(ERROR_COLORS['broken region'])
    drawing[broken] = (
        (1 - _FILL_OPACITY) * drawing[broken] + _FILL_OPACITY * fill
    ).round()
    drawing[thicken(spurious)] = ERROR_COLORS['spurious boundary']
    drawing[thicken(missed)] = ERROR_COLORS['missed boundary']
    # What one line's thickness has covered of the other.
    drawing[spurious & ~missed] = ERROR_COLORS['spurious boundary']
    return drawing


def dim(image: ndarray) -> ndarray:
    """The image in dark gray, as a background on which colors stand out.

    Args:
        image (ndarray): RGB, uint8.

    Returns:
        ndarray: RGB, uint8, values up to 140.

    Shape:
        - image: (H, W, 3)
        - output: (H, W, 3)
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    gray = (gray * (140 / 255)).round().astype(np.uint8)
    return cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB)


def thicken(lines: ndarray) -> ndarray:
    """Thicken lines as an image of their size needs to be looked at whole.

    Args:
        lines (ndarray): Where the lines are, bool.

    Returns:
        ndarray: Pixels within about a 600th of the diagonal, bool.

    Shape:
        - lines: (H, W)
        - output: (H, W)
    """
    reach = round(math.hypot(*lines.shape) / 600)
    kernel = cv2.getStructuringElement(
        cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)
    )
    return cv2.dilate(lines.view(np.uint8), kernel).view(bool)
