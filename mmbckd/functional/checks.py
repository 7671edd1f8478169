"""Checks of arguments that the losses share."""

from __future__ import annotations

from torch import Tensor


def check_map(name: str, x: Tensor, like: Tensor | None = None) -> None:
    """Raise unless ``x`` is a map of features, logits or the like.

    Args:
        name (str): Name of the argument, for the message.
        x (Tensor): Floating point, (N, C, H, W), none of them 0.
        like (Tensor, optional): A tensor of as many images. Defaults to None.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If its shape is wrong.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f'{name} must be a floating-point tensor, but got {got}'
        )
    if x.dim() != 4 or x.numel() == 0:
        raise ValueError(
            f'{name} must have shape (N, C, H, W), none of them '
            f'0, but got {tuple(x.shape)}'
        )
    if like is not None and len(x) != len(like):
        raise ValueError(
            f'{name} must hold the same images as the student, but got '
            f'{len(x)} for {len(like)}; pass maps of one batch'
        )
