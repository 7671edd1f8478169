"""Class logits of models that classify masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .maps import check_map


def mask_class_logits(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    r"""Logits of the class posteriors that classified masks amount to.

    .. math::
        s_i(c) = \sum_q \mathrm{softmax}(l_q)(c)\,\sigma(m_{qi}), \qquad
        T_i(c) = \log s_i(c) - \frac{1}{K} \sum_k \log s_i(k)

    Query q has the logits :math:`l_q` of K classes and, last, of "no object",
    which takes part in the softmax and is left out of the sum, and a mask
    logit :math:`m_{qi}` at every pixel. :math:`s` is what such a model
    segments by. :math:`\mathrm{softmax}_c(T)` is :math:`s` divided by its
    sum over the classes, so that T stands wherever logits are expected. Of
    all logits with that softmax they are those of mean 0, as those of a
    classifier that was trained by cross-entropy nearly are.

    They are computed in float32, also under autocast, or in float64 if
    ``mask_logits`` is float64.

    Args:
        class_logits (Tensor): Class logits l of every query.
        mask_logits (Tensor): Mask logits m of every query.

    Returns:
        Tensor: T, finite.

    Raises:
        TypeError: If an argument is no floating-point tensor.
        ValueError: If a shape is wrong.

    Shape:
        - class_logits: (N, Q, K + 1)
        - mask_logits: (N, Q, h, w)
        - output: (N, K, h, w)

    References:
        Cheng, Schwing, Kirillov. Per-Pixel Classification is Not All You Need
        for Semantic Segmentation. NeurIPS 2021, section 3.4: the sum over the
        queries.

    Example:
        >>> import torch
        >>> classes = torch.tensor([[[9.0, -9.0, -9.0], [-9.0, 9.0, -9.0]]])
        >>> masks = torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])
        >>> p = mask_class_logits(classes, masks).softmax(dim=1)
        >>> p[0, 0].round(decimals=3)
        tensor([[1., 0.]])
    """
    _check_queries(class_logits, mask_logits)
    with torch.autocast(mask_logits.device.type, enabled=False):
        dtype = torch.promote_types(mask_logits.dtype, torch.float32)
        p = F.softmax(class_logits.to(dtype), dim=-1)[..., :-1]
        mask = mask_logits.to(dtype).sigmoid()
        s = torch.einsum('nqk,nqhw->nkhw', p, mask)
        # Where rounding left nothing.
        logits = s.clamp(min=torch.finfo(dtype).tiny).log()
        return logits - logits.mean(dim=1, keepdim=True)


def _check_queries(class_logits: Tensor, mask_logits: Tensor) -> None:
    """Raise unless both are logits of the same queries."""
    check_map('mask_logits', mask_logits)
    if not isinstance(class_logits, Tensor) or (
        not class_logits.is_floating_point()
    ):
        got = getattr(class_logits, 'dtype', type(class_logits).__name__)
        raise TypeError(
            'Expected class_logits to be a floating-point tensor, but got '
            f'{got}'
        )
    if (
        class_logits.dim() != 3
        or class_logits.shape[:2] != mask_logits.shape[:2]
        or class_logits.shape[2] < 3
    ):
        images, queries = mask_logits.shape[:2]
        raise ValueError(
            f'Expected class_logits of shape ({images}, {queries}, K + 1) '
            'with at least 2 classes and "no object", but got '
            f'{tuple(class_logits.shape)}; pass those of the queries of '
            'mask_logits'
        )
