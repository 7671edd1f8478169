"""Maps of features and logits: checked, brought to one size, and summed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def check_map(name: str, x: Any, like: Tensor | None = None) -> Tensor:
    """Return ``x``, and raise unless it is a map of features or logits.

    Args:
        name (str): Name of the argument, for the message.
        x (Any): What should be a map.
        like (Tensor | None): A tensor of as many images. Defaults to None.

    Returns:
        Tensor: ``x``, floating point.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If its shape is wrong.

    Shape:
        - x: (N, C, H, W), none of them 0
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
        if isinstance(x, (list, tuple)):
            got += ' of several; pass one of them, by `data_idx` in a config'
        raise TypeError(
            f'Expected {name} to be a floating-point tensor, but got {got}'
        )
    if x.dim() != 4 or x.numel() == 0:
        raise ValueError(
            f'Expected {name} of shape (N, C, H, W), none of them 0, but got '
            f'{tuple(x.shape)}'
        )
    if like is not None and len(x) != len(like):
        raise ValueError(
            f'Expected {name} to hold the {len(like)} images of the student, '
            f'but got {len(x)}; pass maps of one batch'
        )
    return x


def check_logits(student: Any, teacher: Any) -> None:
    """Raise unless both are class logits of the same images and classes.

    Args:
        student (Any): What should be the student's logits.
        teacher (Any): What should be the teacher's.

    Raises:
        TypeError: If one is no floating-point tensor.
        ValueError: If a shape is wrong, or if the classes differ in number.

    Shape:
        - student: (N, K, H_S, W_S)
        - teacher: (N, K, H_T, W_T)
    """
    check_map('student', student)
    check_map('teacher', teacher, like=student)
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            'Expected logits of as many classes from student and teacher, '
            f'but got {student.shape[1]} and {teacher.shape[1]} channels; '
            'pass what their classifiers put out'
        )


def check_classes(name: str, logits: Tensor) -> None:
    """Raise unless a softmax over the channels of logits says anything.

    Args:
        name (str): Whose logits they are, for the message.
        logits (Tensor): The logits.

    Raises:
        ValueError: If there is one channel only.

    Shape:
        - logits: (N, K, H, W)
    """
    if logits.shape[1] < 2:
        raise ValueError(
            f'Expected {name} with at least 2 class channels, since a softmax '
            'needs at least 2 classes, but got shape '
            f'{tuple(logits.shape)}; set out_channels=2 of the classifier, or '
            'turn a binary logit t into two classes with '
            'torch.cat([torch.zeros_like(t), t], dim=1)'
        )


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """A map at another size, bilinearly with ``align_corners=False``.

    Shape:
        - x: (N, C, h, w)
        - returns: (N, C, H, W), H and W from ``size``
    """
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=size, mode='bilinear', align_corners=False)


def at_one_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the size of the one with fewer pixels, see
    :func:`resized`.

    Shape:
        - student: (N, C_S, H_S, W_S)
        - teacher: (N, C_T, H_T, W_T)
        - returns: (N, C_S, H, W), (N, C_T, H, W)
    """
    size_s, size_t = student.shape[-2:], teacher.shape[-2:]
    if size_s.numel() > size_t.numel():
        return resized(student, size_t), teacher
    return student, resized(teacher, size_s)


def totals_over_group(sums: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """What balanced terms are divided by: their summed weights, in a group
    the mean over its processes, and 1 where that is 0.

    Shape:
        - sums: any
        - returns: the same
    """
    if group is not None:
        sums = sums.clone()
        dist.all_reduce(sums, group=group)
        sums /= dist.get_world_size(group)
    return torch.where(sums > 0, sums, 1)
