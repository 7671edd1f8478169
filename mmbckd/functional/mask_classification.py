"""Logits of classes and of instances, of models that classify masks."""

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
    _check_queries(class_logits, mask_logits, min_classes=2)
    with torch.autocast(mask_logits.device.type, enabled=False):
        dtype = torch.promote_types(mask_logits.dtype, torch.float32)
        p = F.softmax(class_logits.to(dtype), dim=-1)[..., :-1]
        mask = mask_logits.to(dtype).sigmoid()
        s = torch.einsum('nqk,nqhw->nkhw', p, mask)
        # Where rounding left nothing.
        logits = s.clamp(min=torch.finfo(dtype).tiny).log()
        return logits - logits.mean(dim=1, keepdim=True)


def mask_query_logits(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    r"""Logits of the instance posteriors that classified masks amount to.

    .. math::
        s_{qi} = (1 - \mathrm{softmax}(l_q)(\varnothing))\,\sigma(m_{qi}),
        \qquad
        T_i(0) = 0, \quad T_i(q) = \log \frac{s_{qi}}{1 - s_{qi}}

    with :math:`l_q` and :math:`m_{qi}` as in :func:`mask_class_logits`.
    :math:`s_{qi}` is the probability that query q is an object and pixel i in
    its mask. :math:`p_i = \mathrm{softmax}(T_i)` says which object the pixel
    belongs to, none being the first of the channels: it is the probability of
    each outcome if the queries are independent and a pixel belongs to one
    object at most. So :math:`\sum_q p_i(q)\,p_j(q)`, the affinity ``source=
    'semantic'`` of :func:`boundary_affinity_loss`, is the probability that
    both pixels are of one instance, or both of none.

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
        - output: (N, 1 + Q, h, w)

    References:
        Cheng et al. Masked-attention Mask Transformer for Universal Image
        Segmentation. CVPR 2022: queries that are objects. The posterior is
        this project's own.

    Example:
        >>> import torch
        >>> classes = torch.tensor([[[9.0, -9.0], [9.0, -9.0]]])
        >>> masks = torch.tensor([[[[9.0, -9.0, -9.0]], [[-9.0, 9.0, -9.0]]]])
        >>> mask_query_logits(classes, masks).argmax(dim=1)
        tensor([[[1, 2, 0]]])
    """
    _check_queries(class_logits, mask_logits, min_classes=1)
    with torch.autocast(mask_logits.device.type, enabled=False):
        dtype = torch.promote_types(mask_logits.dtype, torch.float32)
        log_p = F.log_softmax(class_logits.to(dtype), dim=-1)
        log_object = log_p[..., :-1].logsumexp(dim=-1)[..., None, None]
        log_none = log_p[..., -1][..., None, None]
        mask = mask_logits.to(dtype)
        log_inside = log_object + F.logsigmoid(mask)
        log_outside = torch.logaddexp(
            log_none, log_object + F.logsigmoid(-mask)
        )
        return F.pad(log_inside - log_outside, (0, 0, 0, 0, 1, 0))


def _check_queries(
    class_logits: Tensor, mask_logits: Tensor, min_classes: int
) -> None:
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
        or class_logits.shape[2] < min_classes + 1
    ):
        images, queries = mask_logits.shape[:2]
        raise ValueError(
            f'Expected class_logits of shape ({images}, {queries}, K + 1) '
            f'with K of at least {min_classes} and "no object", but got '
            f'{tuple(class_logits.shape)}; pass those of the queries of '
            'mask_logits'
        )
