"""Pairs of pixels on a grid, and the discrete lines between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

# (dy, dx) from the first pixel of a pair to the second; dy >= 0 throughout.
Displacement = tuple[int, int]


def pair_displacements(radius: float) -> list[Displacement]:
    r"""Displacements :math:`d` with :math:`0 < |d| < radius`, half a disk.

    Of ``d`` and ``-d`` only the one that points down, or straight to the
    right, is listed, so that every unordered pair of pixels occurs once.

    Args:
        radius (float): Euclidean distance that every pair stays below.

    Returns:
        list[tuple[int, int]]: ``(dy, dx)``, row by row.

    Raises:
        TypeError: If ``radius`` is not a number.
        ValueError: If ``radius`` is not finite or not greater than 1.

    References:
        Ahn, Cho, Kwak. Weakly Supervised Learning of Instance Segmentation
        with Inter-pixel Relations. CVPR 2019, the pairs of neighbors.

    Example:
        >>> pair_displacements(2)
        [(0, 1), (1, -1), (1, 0), (1, 1)]
    """
    if not isinstance(radius, (int, float)) or isinstance(radius, bool):
        raise TypeError(
            'Expected radius to be a number, but got '
            f'{type(radius).__name__}; pass e.g. radius=5.0'
        )
    if not (math.isfinite(radius) and radius > 1):
        raise ValueError(
            'Expected radius to be finite and greater than 1, the least '
            f'distance of two pixels, but got {radius}; pass e.g. radius=5.0'
        )
    reach = math.ceil(radius) - 1
    return [
        (dy, dx)
        for dy in range(reach + 1)
        for dx in range(-reach, reach + 1)
        if (dy, dx) > (0, 0) and math.hypot(dy, dx) < radius
    ]


def pair_ends(x: Tensor, displacement: Displacement) -> tuple[Tensor, Tensor]:
    """x_i and x_j, views, of all pairs j = i + d inside (..., H, W)."""
    dy, dx = displacement
    height, width = x.shape[-2:]
    left, right = max(-dx, 0), max(dx, 0)
    x_i = x[..., : height - dy, left : width - right]
    x_j = x[..., dy:, right : width - left]
    return x_i, x_j


def edges_between_neighbors(
    blank: Tensor, unlike: Callable[[Displacement], Tensor]
) -> Tensor:
    r"""How unlike a pixel is to the most unlike of its four neighbors.

    .. math::
        E_i = \max_{|x_j - x_i| = 1} (1 - A_{ij})

    Args:
        blank (Tensor): Zeros, which become the edges.
        unlike (Callable): From a displacement to 1 - A of all pairs at it;
            0 where a pair does not count.

    Returns:
        Tensor: ``blank``.

    Shape:
        - blank: (N, H, W)
    """
    for displacement in pair_displacements(1.1):
        difference = unlike(displacement).to(blank.dtype)
        for end in pair_ends(blank, displacement):
            torch.maximum(end, difference, out=end)
    return blank


@dataclass
class LineNode:
    """A pixel of the lines from the origin; lines share their beginnings."""

    pixel: Displacement
    ends_pair: bool = False
    children: dict[Displacement, LineNode] = field(default_factory=dict)


def line_pixels(displacement: Displacement) -> list[Displacement]:
    """The n + 1 pixels (floor(dy k/n + 1/2), floor(dx k/n + 1/2))."""
    dy, dx = displacement
    n = max(abs(dy), abs(dx))
    # floor(a k / n + 1/2) in integers: exact, and a floor below 0 as well.
    return [
        ((2 * dy * k + n) // (2 * n), (2 * dx * k + n) // (2 * n))
        for k in range(n + 1)
    ]


def line_tree(displacements: list[Displacement]) -> LineNode:
    """All lines, as a tree in which a common beginning occurs once."""
    root = LineNode((0, 0))
    for displacement in displacements:
        node = root
        for pixel in line_pixels(displacement)[1:]:
            node = node.children.setdefault(pixel, LineNode(pixel))
        node.ends_pair = True
    return root
