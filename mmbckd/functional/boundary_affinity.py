"""Boundary distillation: pixel-pair affinities along straight lines."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .lines import (
    Displacement,
    LineNode,
    edges_between_neighbors,
    line_tree,
    pair_displacements,
    pair_ends,
)
from .maps import check_classes, check_map, resized, totals_over_group

SOURCES = ('semantic', 'feature', 'label')

# displacement d -> the weights A_ij and 1 - A_ij, (2, N, h, w), of all pairs
# j = i + d inside the map. Bools where they are 0 or 1; both are 0 where a
# pair does not count.
PairWeights = Callable[[Displacement], Tensor]

# Channels whose products are held at once when two pixels are compared.
_CHANNEL_GROUP = 16


def boundary_affinity_loss(
    boundary_logits: Tensor,
    teacher: Tensor | Sequence[Tensor],
    *,
    source: str = 'semantic',
    radius: float = 5.0,
    tau: float = 1.0,
    ignore_index: int = 255,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    r"""Boundary distillation loss on the affinities of pixel pairs.

    .. math::
        L_{BD} = - \frac{\sum_P A \log a}{\sum_P A}
                 - \frac{\sum_P (1 - A) \log (1 - a)}{\sum_P (1 - A)},
        \qquad
        a_{ij} = 1 - \max_{k \in \Pi_{ij}} \mathrm{sigmoid}(z_k)

    :math:`P` holds the pairs closer than ``radius`` of the whole batch, each
    once; :math:`\Pi_{ij}` is the discrete straight line from i to j, both
    ends included; :math:`A_{ij}` is the teacher's affinity. A term whose
    weights sum to 0 is 0. The teacher's affinity is, by ``source``:

    - ``'semantic'``: :math:`\sum_c p_i(c)\,p_j(c)` with
      :math:`p = \mathrm{softmax}(T / \tau)` of class logits T;
    - ``'feature'``: :math:`\exp(-(1 - \cos(g_i, g_j)) / \sigma)` of a feature
      map g, averaged over the maps; :math:`\sigma` is the image's own mean
      of :math:`1 - \cos` over the pairs (a constant map has affinity 1);
    - ``'label'``: 1 where both labels are equal, else 0. Pairs that touch an
      ignored pixel are left out.

    The loss is computed in float32, also under autocast, or in float64 if
    ``boundary_logits`` is float64. Peak memory does not grow with the number
    of pairs. The gradient reaches ``boundary_logits`` only.

    Args:
        boundary_logits (Tensor): Student's boundary logits z, any range.
        teacher (Tensor | Sequence[Tensor]): What ``source`` asks for. Logits
            and features of another resolution are resized bilinearly
            (``align_corners=False``) to that of ``boundary_logits``, labels
            by nearest neighbor.
        source (str): ``'semantic'``, ``'feature'`` or ``'label'``. Defaults
            to ``'semantic'``.
        radius (float): Distance that the pairs stay below, in pixels of
            ``boundary_logits``. Defaults to 5.0.
        tau (float): Temperature of ``'semantic'``. Defaults to 1.0.
        ignore_index (int): Label that ``'label'`` ignores. Defaults to 255.
        group (ProcessGroup | None): Processes of which each holds a part
            of the batch and makes this call. The mean over them, of the
            losses as of the gradients, is then that of the whole batch.
            Defaults to None: this process holds all of it.

    Returns:
        Tensor: The loss, a scalar.

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If a shape, ``source``, ``radius`` or ``tau`` is invalid.

    Shape:
        - boundary_logits: (N, 1, H, W)
        - teacher: (N, K, h, w) for ``'semantic'``; one or several
          (N, C_m, h_m, w_m) for ``'feature'``; (N, h, w), integers, for
          ``'label'``
        - output: ()

    References:
        Ahn, Cho, Kwak. Weakly Supervised Learning of Instance Segmentation
        with Inter-pixel Relations. CVPR 2019: the affinity and, with
        ``'label'``, the loss for class boundary detection. The soft teacher
        affinities are this project's own.

    Example:
        >>> import torch
        >>> boundary_logits = torch.zeros(2, 1, 16, 16, requires_grad=True)
        >>> teacher_logits = torch.randn(2, 19, 8, 8)
        >>> loss = boundary_affinity_loss(boundary_logits, teacher_logits)
        >>> loss.backward()
        >>> print(f'{loss.item():.4f}')  # both terms are log 2
        1.3863
    """
    z = _boundary_map(boundary_logits)
    displacements = _displacements_within(z, radius)
    weights = _teacher_weights(
        teacher, z, displacements, source, tau, ignore_index
    )
    with torch.autocast(z.device.type, enabled=False):
        # The maximum along a line is z of one of its pixels, so that the loss
        # of a pair is that of a pixel, and the sum over pairs one over pixels.
        with torch.no_grad():
            pixel_weights = _weights_at_maxima(z, displacements, weights)
            sums = pixel_weights.sum(dim=(1, 2, 3), keepdim=True)
            same, different = pixel_weights / totals_over_group(sums, group)
        # log a = -softplus(m) and log(1 - a) = -softplus(-m).
        return -(same * F.logsigmoid(-z) + different * F.logsigmoid(z)).sum()


def affinity_edges(
    boundary_logits: Tensor,
    teacher: Tensor | Sequence[Tensor],
    *,
    source: str = 'semantic',
    radius: float = 5.0,
    tau: float = 1.0,
    ignore_index: int = 255,
) -> Tensor:
    r"""The teacher's affinities as a map of edges, to be looked at.

    .. math::
        E_i = 1 - \min_{|x_j - x_i| = 1} A_{ij}

    with the affinities of :func:`boundary_affinity_loss`, whose arguments
    these are. Pairs that touch an ignored pixel are left out; a pixel without
    any other has no edge, 0.

    Args:
        boundary_logits (Tensor): Student's boundary logits, of which only
            the resolution and the dtype matter.
        teacher (Tensor | Sequence[Tensor]): What ``source`` asks for.
        source (str): ``'semantic'``, ``'feature'`` or ``'label'``. Defaults
            to ``'semantic'``.
        radius (float): Distance of the pairs that ``'feature'`` takes its
            mean over. Defaults to 5.0.
        tau (float): Temperature of ``'semantic'``. Defaults to 1.0.
        ignore_index (int): Label that ``'label'`` ignores. Defaults to 255.

    Returns:
        Tensor: The edges, from 0 to 1, without gradient.

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If a shape, ``source``, ``radius`` or ``tau`` is invalid.

    Shape:
        - boundary_logits: (N, 1, H, W)
        - teacher: see :func:`boundary_affinity_loss`
        - output: (N, 1, H, W)

    Example:
        >>> import torch
        >>> labels = torch.tensor([[[0, 0, 1, 1]]])
        >>> affinity_edges(torch.zeros(1, 1, 1, 4), labels, source='label')
        tensor([[[[0., 1., 1., 0.]]]])
    """
    z = _boundary_map(boundary_logits)
    weights = _teacher_weights(
        teacher, z, _displacements_within(z, radius), source, tau, ignore_index
    )
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        edges = edges_between_neighbors(
            torch.zeros_like(z), lambda displacement: weights(displacement)[1]
        )
        return edges[:, None]


def _boundary_map(boundary_logits: Tensor) -> Tensor:
    """z, (N, H, W), in float32 or float64."""
    check_map('boundary_logits', boundary_logits)
    if boundary_logits.shape[1] != 1:
        raise ValueError(
            'Expected boundary_logits of shape (N, 1, H, W), but got '
            f'{tuple(boundary_logits.shape)}; pass one logit per pixel'
        )
    z = boundary_logits[:, 0]
    return z.to(torch.promote_types(z.dtype, torch.float32))


def _displacements_within(z: Tensor, radius: float) -> list[Displacement]:
    """The displacements of pairs, but those that no pair inside z has."""
    height, width = z.shape[-2:]
    return [
        (dy, dx)
        for dy, dx in pair_displacements(radius)
        if dy < height and abs(dx) < width
    ]


# ------------------------------------------------------------ teacher side


def _teacher_weights(
    teacher: Tensor | Sequence[Tensor],
    z: Tensor,
    displacements: list[Displacement],
    source: str,
    tau: float,
    ignore_index: int,
) -> PairWeights:
    """A and 1 - A at the resolution of z, by their source."""
    check_source(source)
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        if source == 'semantic':
            return _semantic_weights(teacher, z, tau)
        if source == 'feature':
            return _feature_weights(teacher, z, displacements)
        return _label_weights(teacher, z, ignore_index)


def check_source(source: str) -> None:
    """Refuse what is no source of affinities.

    Args:
        source (str): One of :data:`SOURCES`.

    Raises:
        ValueError: If it is another.
    """
    if source not in SOURCES:
        raise ValueError(
            f'Expected source to be one of {SOURCES}, but got {source!r}'
        )


def _semantic_weights(
    teacher: Tensor | Sequence[Tensor], z: Tensor, tau: float
) -> PairWeights:
    """A_ij = sum_c p_i(c) p_j(c) with p = softmax(T / tau)."""
    logits = check_map('teacher', teacher, like=z)
    check_classes('teacher', logits)
    if not tau > 0:
        raise ValueError(
            f'Expected a positive tau, but got {tau}; pass e.g. tau=1.0'
        )
    logits = resized(logits.to(z.dtype) / tau, z.shape[-2:])
    p = torch.softmax(logits, dim=1)

    def weights(displacement: Displacement) -> Tensor:
        affinity = _pair_products(p, displacement)
        return torch.stack([affinity, 1 - affinity])

    return weights


def _feature_weights(
    teacher: Tensor | Sequence[Tensor],
    z: Tensor,
    displacements: list[Displacement],
) -> PairWeights:
    """A_ij = mean_m exp(-(1 - cos(g_i, g_j)) / sigma_m)."""
    features = [teacher] if isinstance(teacher, Tensor) else teacher
    if not isinstance(features, Sequence) or isinstance(features, str):
        raise TypeError(
            'Expected teacher to be a tensor or a sequence of tensors for '
            f"'feature', but got {type(teacher).__name__}"
        )
    if not features:
        raise ValueError(
            "Expected teacher to hold at least one map for 'feature', but "
            'got an empty sequence'
        )
    for m, feature in enumerate(features):
        check_map(f'teacher[{m}]', feature, like=z)
    maps = [
        F.normalize(resized(g.to(z.dtype), z.shape[-2:]), dim=1)
        for g in features
    ]
    sigmas = [_mean_distance(g, displacements) for g in maps]

    def weights(displacement: Displacement) -> Tensor:
        affinity = z.new_zeros(())
        for g, sigma in zip(maps, sigmas):
            affinity = affinity + torch.exp(
                -_distance(g, displacement) / sigma
            )
        affinity = affinity / len(maps)
        return torch.stack([affinity, 1 - affinity])

    return weights


def _distance(g: Tensor, displacement: Displacement) -> Tensor:
    """1 - cos(g_i, g_j) of unit vectors g, (N, C, H, W), as (N, h, w)."""
    return (1 - _pair_products(g, displacement)).clamp_(min=0)


def _mean_distance(g: Tensor, displacements: list[Displacement]) -> Tensor:
    """sigma, (N, 1, 1): the mean of an image's distances over its pairs."""
    num_images, _, height, width = g.shape
    num_pairs = sum(
        (height - dy) * (width - abs(dx)) for dy, dx in displacements
    )
    sigma = g.new_zeros(num_images, 1, 1)
    for displacement in displacements:
        sigma += _distance(g, displacement).sum(dim=(1, 2), keepdim=True)
    sigma /= max(num_pairs, 1)
    # Below this, 1 - cos is rounding: the map is constant, A = exp(0).
    constant = sigma <= 64 * torch.finfo(g.dtype).eps
    return sigma.masked_fill(constant, math.inf)


def _label_weights(
    teacher: Tensor | Sequence[Tensor], z: Tensor, ignore_index: int
) -> PairWeights:
    """A_ij = 1[y_i = y_j]; both weights are 0 where a label is ignored."""
    if not isinstance(teacher, Tensor):
        raise TypeError(
            "Expected teacher to be a tensor for 'label', but got "
            f'{type(teacher).__name__}'
        )
    if teacher.is_floating_point() or teacher.is_complex():
        raise TypeError(
            "Expected teacher to be an integer map for 'label', but got "
            f'{teacher.dtype}; convert labels with .long(), or pass source='
            "'semantic' for logits"
        )
    if teacher.dim() != 3 or len(teacher) != len(z):
        raise ValueError(
            f"Expected teacher of shape ({len(z)}, h, w) for 'label', but "
            f'got {tuple(teacher.shape)}; drop a channel dimension with '
            '.squeeze(1)'
        )
    labels = teacher
    if labels.shape != z.shape:
        # The source pixels of 'nearest', without a detour over floats that
        # would merge large instance ids.
        y, x = (
            torch.arange(new, device=labels.device) * old // new
            for new, old in zip(z.shape[1:], labels.shape[1:])
        )
        labels = labels[:, y[:, None], x]

    known = labels != ignore_index

    def weights(displacement: Displacement) -> Tensor:
        y_i, y_j = pair_ends(labels, displacement)
        known_i, known_j = pair_ends(known, displacement)
        counts = known_i & known_j
        return torch.stack([counts & (y_i == y_j), counts & (y_i != y_j)])

    return weights


def _pair_products(x: Tensor, displacement: Displacement) -> Tensor:
    """<x_i, x_j> over the channels of (N, C, H, W), as (N, h, w)."""
    return functools.reduce(
        torch.add,
        (
            torch.mul(*pair_ends(group, displacement)).sum(dim=1)
            for group in x.split(_CHANNEL_GROUP, dim=1)
        ),
    )


# ------------------------------------------------------------ student side


def _weights_at_maxima(
    z: Tensor, displacements: list[Displacement], weights: PairWeights
) -> Tensor:
    r"""Give the weights of each pair to the pixel of its line's maximum.

    .. math::
        w_k = \sum_{(i, j):\, k(i, j) = k} (A_{ij},\ 1 - A_{ij}), \qquad
        k(i, j) = \mathrm{argmax}_{k \in \Pi_{ij}} z_k

    Of equal maxima the first on the line is taken. For all pixels i at once,
    the walk goes down the tree of lines from i with the maximum so far, and
    comes back with the weights of the pairs whose maximum that still is.
    So it holds a few maps per pixel of a line, whatever the number of pairs.

    Args:
        z (Tensor): Boundary logits.
        displacements (list[tuple[int, int]]): Those of the pairs.
        weights (PairWeights): A and 1 - A.

    Returns:
        Tensor: w.

    Shape:
        - z: (N, H, W)
        - returns: (2, N, H, W)
    """
    height, width = z.shape[-2:]
    # Lines that leave the map run into a margin. They end no pair inside the
    # map, so that no weight comes from there.
    margin = max((max(dy, abs(dx)) for dy, dx in displacements), default=0)
    padded_z = F.pad(z, (margin, margin, 0, margin))
    padded_w = padded_z.new_zeros(2, *padded_z.shape)

    def seen_from_start(padded: Tensor, pixel: Displacement) -> Tensor:
        """The map, a view, that holds x[i + pixel] at i."""
        top, left = pixel[0], pixel[1] + margin
        return padded[..., top : top + height, left : left + width]

    def walk(node: LineNode, maximum: Tensor) -> Tensor:
        """Give away the weights of the pairs whose line passes ``node``.

        ``maximum`` is that of z on the way to ``node``, ends included. The
        pixels behind ``node`` get the weights of which they are the maximum;
        those of the pixel where ``maximum`` lies are returned.
        """
        for_maximum = maximum.new_zeros(2, *maximum.shape)
        if node.ends_pair:
            at_i, _ = pair_ends(for_maximum, node.pixel)
            at_i.copy_(weights(node.pixel))
        for child in node.children.values():
            child_z = seen_from_start(padded_z, child.pixel)
            returned = walk(child, torch.maximum(maximum, child_z))
            # Numbers, since addcmul_ would first convert bools.
            is_higher = torch.gt(child_z, maximum, out=torch.empty_like(z))
            is_no_higher = torch.le(child_z, maximum, out=torch.empty_like(z))
            seen_from_start(padded_w, child.pixel).addcmul_(
                returned, is_higher
            )
            for_maximum.addcmul_(returned, is_no_higher)
        return for_maximum

    root = line_tree(displacements)
    return seen_from_start(padded_w, root.pixel).add_(walk(root, z))
