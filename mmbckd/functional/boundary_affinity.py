"""Boundary distillation: pixel-pair affinities along straight lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .checks import check_map
from .lines import Displacement, LineNode, line_tree, pair_displacements

SOURCES = ('semantic', 'feature', 'label')

# The weights A and 1 - A, (2, N, h, w), of all pairs of a displacement; of
# bools where they are 0 or 1.
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
            by nearest neighbour.
        source (str): ``'semantic'``, ``'feature'`` or ``'label'``. Defaults
            to ``'semantic'``.
        radius (float): Distance that the pairs stay below, in pixels of
            ``boundary_logits``. Defaults to 5.0.
        tau (float): Temperature of ``'semantic'``. Defaults to 1.0.
        ignore_index (int): Label that ``'label'`` ignores. Defaults to 255.
        group (ProcessGroup, optional): Processes of which each holds a part
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
    z, displacements, weights = _pairs(
        boundary_logits, teacher, source, radius, tau, ignore_index
    )
    with torch.autocast(z.device.type, enabled=False):
        # The maximum along a line is one of its pixels: a pair's loss is that
        # of a pixel, and how often it counts there does not depend on z.
        with torch.no_grad():
            sums = _weights_at_maxima(z, displacements, weights)
            together, apart = sums / _totals(sums, group)
        # log a = -softplus(m) and log(1 - a) = -softplus(-m).
        return -(together * F.logsigmoid(-z) + apart * F.logsigmoid(z)).sum()


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
    z, _, weights = _pairs(
        boundary_logits, teacher, source, radius, tau, ignore_index
    )
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        edges = torch.zeros_like(z)
        for displacement in pair_displacements(1.1):
            _, apart = weights(displacement)
            for end in _pair_ends(edges, displacement):
                torch.maximum(end, apart.to(end.dtype), out=end)
        return edges[:, None]


def _pairs(
    boundary_logits: Tensor,
    teacher: Tensor | Sequence[Tensor],
    source: str,
    radius: float,
    tau: float,
    ignore_index: int,
) -> tuple[Tensor, list[Displacement], PairWeights]:
    """z (N, H, W), the displacements that fit into it, and the weights."""
    displacements = pair_displacements(radius)
    check_map('boundary_logits', boundary_logits)
    if boundary_logits.shape[1] != 1:
        raise ValueError(
            'boundary_logits must have shape (N, 1, H, W), but got '
            f'{tuple(boundary_logits.shape)}; pass one logit per pixel'
        )

    size = boundary_logits.shape[-2:]
    displacements = [
        (dy, dx)
        for dy, dx in displacements
        if dy < size[0] and abs(dx) < size[1]
    ]
    z = boundary_logits[:, 0]
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        if source == 'semantic':
            weights = _semantic_weights(teacher, z, tau)
        elif source == 'feature':
            weights = _feature_weights(teacher, z, displacements)
        elif source == 'label':
            weights = _label_weights(teacher, z, ignore_index)
        else:
            raise ValueError(
                f'source must be one of {SOURCES}, but got {source!r}'
            )
    return z, displacements, weights


# ------------------------------------------------------------ teacher side


def _semantic_weights(teacher: Tensor, z: Tensor, tau: float) -> PairWeights:
    """A_ij = sum_c p_i(c) p_j(c) with p = softmax(T / tau)."""
    check_map('teacher', teacher, like=z)
    if teacher.shape[1] < 2:
        raise ValueError(
            "teacher must have at least 2 class channels for 'semantic', but "
            f'got shape {tuple(teacher.shape)}; turn a binary logit t into '
            'two classes with torch.cat([torch.zeros_like(t), t], dim=1)'
        )
    if not tau > 0:
        raise ValueError(
            f'tau must be positive, but got {tau}; pass e.g. tau=1.0'
        )
    p = torch.softmax(_resize(teacher.to(z.dtype) / tau, z), dim=1)

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
    maps = [teacher] if isinstance(teacher, Tensor) else teacher
    if not isinstance(maps, Sequence) or isinstance(maps, str):
        raise TypeError(
            "teacher must be a tensor or a sequence of tensors for 'feature',"
            f' but got {type(teacher).__name__}'
        )
    if not maps:
        raise ValueError(
            "teacher must hold at least one map for 'feature', "
            'but got an empty sequence'
        )
    for index, feature in enumerate(maps):
        check_map(f'teacher[{index}]', feature, like=z)
    maps = [F.normalize(_resize(g.to(z.dtype), z), dim=1) for g in maps]

    def distance(g: Tensor, displacement: Displacement) -> Tensor:
        return (1 - _pair_products(g, displacement)).clamp_(min=0)

    num_pairs = sum(
        (z.shape[1] - dy) * (z.shape[2] - abs(dx)) for dy, dx in displacements
    )
    sigmas = []
    for g in maps:
        sigma = z.new_zeros(len(z), 1, 1)
        for d in displacements:
            sigma += distance(g, d).sum(dim=(1, 2), keepdim=True)
        sigma /= max(num_pairs, 1)
        # Below this, 1 - cos is rounding: the map is constant, A = exp(0).
        constant = sigma <= 64 * torch.finfo(z.dtype).eps
        sigmas.append(sigma.masked_fill(constant, math.inf))

    def weights(displacement: Displacement) -> Tensor:
        affinity = sum(
            torch.exp(-distance(g, displacement) / sigma)
            for g, sigma in zip(maps, sigmas)
        ) / len(maps)
        return torch.stack([affinity, 1 - affinity])

    return weights


def _label_weights(
    teacher: Tensor, z: Tensor, ignore_index: int
) -> PairWeights:
    """A_ij = 1[y_i = y_j]; both weights are 0 where a label is ignored."""
    if not isinstance(teacher, Tensor):
        raise TypeError(
            "teacher must be a tensor for 'label', but got "
            f'{type(teacher).__name__}'
        )
    if teacher.is_floating_point() or teacher.is_complex():
        raise TypeError(
            "teacher must be an integer map for 'label', but got "
            f'{teacher.dtype}; convert labels with .long(), or pass source='
            "'semantic' for logits"
        )
    if teacher.dim() != 3 or len(teacher) != len(z):
        raise ValueError(
            f"teacher must have shape ({len(z)}, h, w) for 'label', but got "
            f'{tuple(teacher.shape)}; drop a channel dimension with '
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
        first, second = _pair_ends(labels, displacement)
        valid = torch.logical_and(*_pair_ends(known, displacement))
        same = valid & (first == second)
        return torch.stack([same, valid ^ same])

    return weights


def _resize(x: Tensor, like: Tensor) -> Tensor:
    """x (N, C, h, w), bilinearly at the resolution of ``like``."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(
        x, size=like.shape[-2:], mode='bilinear', align_corners=False
    )


def _pair_ends(x: Tensor, displacement: Displacement) -> tuple[Tensor, Tensor]:
    """The pixels i and i + displacement of all pairs inside (..., H, W)."""
    dy, dx = displacement
    height, width = x.shape[-2:]
    left, right = max(-dx, 0), max(dx, 0)
    first = x[..., : height - dy, left : width - right]
    second = x[..., dy:, right : width - left]
    return first, second


def _pair_products(x: Tensor, displacement: Displacement) -> Tensor:
    """<x_i, x_j> over the channels of (N, C, H, W), as (N, h, w)."""
    total = None
    for group in x.split(_CHANNEL_GROUP, dim=1):
        first, second = _pair_ends(group, displacement)
        product = (first * second).sum(dim=1)
        total = product if total is None else total.add_(product)
    return total


# ------------------------------------------------------------ student side


def _weights_at_maxima(
    z: Tensor, displacements: list[Displacement], weights: PairWeights
) -> Tensor:
    """Give the weights of each pair to the highest pixel of its line.

    The walk goes down the tree of lines with the running maximum of z and
    comes back with the weights of all pairs whose maximum that is, so that
    it holds a few maps per pixel of a line, whatever the number of pairs.

    Returns:
        Tensor: The sums of A and of 1 - A that a pixel was given,
        (2, N, H, W).
    """
    height, width = z.shape[-2:]
    # Lines that leave the map run into a margin. They end no pair inside the
    # map, so that no weight comes from there.
    margin = max((max(dy, abs(dx)) for dy, dx in displacements), default=0)
    padded_z = F.pad(z, (margin, margin, 0, margin))
    padded_total = padded_z.new_zeros(2, *padded_z.shape)

    def shifted(padded: Tensor, pixel: Displacement) -> Tensor:
        """The map, a view, that holds x[i + pixel] at i."""
        top, left = pixel[0], pixel[1] + margin
        return padded[..., top : top + height, left : left + width]

    def distribute(node: LineNode, maximum: Tensor) -> Tensor:
        """Distribute the weights of all pairs whose lines begin with that to
        ``node``, on which the maximum of z is ``maximum``.

        Pixels behind ``node`` take theirs; returned is what is left for the
        pixel of the maximum.
        """
        left = maximum.new_zeros(2, *maximum.shape)
        if node.ends_pair:
            first, _ = _pair_ends(left, node.pixel)
            first.copy_(weights(node.pixel))
        for child in node.children.values():
            child_z = shifted(padded_z, child.pixel)
            rest = distribute(child, torch.maximum(maximum, child_z))
            # Of equal values the first on the line is the maximum. (Numbers,
            # since addcmul_ would first convert bools.)
            higher = torch.gt(child_z, maximum, out=torch.empty_like(z))
            not_higher = torch.le(child_z, maximum, out=torch.empty_like(z))
            shifted(padded_total, child.pixel).addcmul_(rest, higher)
            left.addcmul_(rest, not_higher)
        return left

    root = line_tree(displacements)
    return shifted(padded_total, root.pixel).add_(distribute(root, z))


def _totals(sums: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """What the weights (2, N, H, W) of both terms are divided by: their sum,
    in a group its mean over the processes, and 1 where that is 0."""
    totals = sums.sum(dim=(1, 2, 3), keepdim=True)
    if group is not None:
        dist.all_reduce(totals, group=group)
        totals /= dist.get_world_size(group)
    return torch.where(totals > 0, totals, 1)
