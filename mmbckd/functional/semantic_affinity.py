"""Boundary distillation on the mask: affinities of class probabilities."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from .lines import (
    Displacement,
    edges_between_neighbors,
    pair_displacements,
    pair_ends,
)
from .maps import check_classes, check_logits, resized, totals_over_group

# Share of either outcome that no student can rule out. It bounds the loss
# where a student sees no boundary at all between two pixels.
_EPSILON = 1e-4
# Of all weights, what the pairs that differ are taken to have at least.
_MIN_SHARE = 1e-3


def semantic_affinity_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    radius: float = 4.0,
    tau: float = 1.0,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    r"""Boundary distillation loss on the affinities of class probabilities.

    .. math::
        L_{BD} = - \frac{\sum_P w A \log \tilde a}{\sum_P w A}
                 - \frac{\sum_P w (1 - A) \log (1 - \tilde a)}
                        {\max(\sum_P w (1 - A),\ \delta \sum_P w)}, \qquad
        a_{ij} = \frac{\langle p_i, p_j \rangle}{|p_i|\,|p_j|}, \qquad
        p = \mathrm{softmax}(l / \tau)

    with :math:`a` of the student's class logits :math:`l` and :math:`A` of
    the teacher's; :math:`\tilde a = \varepsilon + (1 - 2 \varepsilon) a`,
    :math:`\varepsilon = 10^{-4}`, keeps the logarithms finite. :math:`P` holds
    the pairs closer than ``radius`` of the whole batch, each once. The cosine
    of two probabilities is 1 if they are equal, however uncertain they are.
    The weight of a pair lets each class of an image count alike:

    .. math::
        w_{ij} = w_i + w_j, \qquad
        w_i = \sum_c \frac{p^T_i(c)^2}{\sum_k p^T_k(c)}

    where k runs over the pixels of the image: the :math:`w_i` that belong to
    one class sum to about 1, and those of a class that the teacher does not
    see to about 0. A term whose weights sum to 0 is 0. Where the teacher is
    sure of one class everywhere, what little it leaves to others is no
    boundary, and :math:`\delta = 10^{-3}` keeps it from being divided up to
    the weight of one.

    The loss is computed in float32, also under autocast, or in float64 if
    ``student`` is float64. The gradient reaches ``student`` only.

    Args:
        student (Tensor): Student's class logits.
        teacher (Tensor): Teacher's class logits; those of another resolution
            are resized bilinearly (``align_corners=False``) to that of
            ``student``.
        radius (float): Distance that the pairs stay below, in pixels of
            ``student``. Defaults to 4.0.
        tau (float): Temperature of both softmaxes. Defaults to 1.0.
        group (ProcessGroup | None): Processes of which each holds a part
            of the batch and makes this call. The mean over them, of the
            losses as of the gradients, is then that of the whole batch.
            Defaults to None: this process holds all of it.

    Returns:
        Tensor: The loss, a scalar of at least 0.

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If a shape, ``radius`` or ``tau`` is invalid, or if the
            numbers of classes differ.

    Shape:
        - student: (N, K, H, W)
        - teacher: (N, K, h, w)
        - output: ()

    References:
        Zhang, Dong, Chen, Cheng. Towards Customized Knowledge Distillation
        for Efficient Dense Image Predictions. TMLR 2026: boundaries by the
        semantic affinity of pixel pairs. Ahn, Cho, Kwak. Weakly Supervised
        Learning of Instance Segmentation with Inter-pixel Relations. CVPR
        2019: the two balanced terms. The formula is this project's own.

    Example:
        >>> import torch
        >>> student = torch.zeros(1, 2, 8, 8, requires_grad=True)
        >>> teacher = torch.full((1, 2, 8, 8), 9.0)
        >>> teacher[:, 0, :, :4] = -9.0
        >>> loss = semantic_affinity_loss(student, teacher)
        >>> print(f'{loss.item():.2f}')  # sees no boundary: -log(epsilon)
        9.21
    """
    p_s, p_t = _probabilities(student, teacher, tau)
    height, width = p_s.shape[-2:]
    displacements = [
        d
        for d in pair_displacements(radius)
        if d[0] < height and abs(d[1]) < width
    ]
    with torch.autocast(p_s.device.type, enabled=False):
        if not displacements:
            return p_s.sum() * 0
        class_mass = p_t.sum(dim=(2, 3), keepdim=True)
        tiny = torch.finfo(p_t.dtype).tiny
        w = (p_t.square() / class_mass.clamp(min=tiny)).sum(dim=1)
        unit_s, unit_t = _unit(p_s), _unit(p_t)

        weights = []
        for displacement in displacements:
            affinity = _affinity(unit_t, displacement)
            w_ij = torch.add(*pair_ends(w, displacement))
            weights.append((w_ij * affinity, w_ij * (1 - affinity)))
        totals = totals_over_group(
            torch.stack(
                [torch.stack([s.sum(), d.sum()]) for s, d in weights]
            ).sum(dim=0),
            group,
        )
        # Without waiting for a GPU.
        different_total = torch.maximum(totals[1], _MIN_SHARE * totals.sum())
        loss = p_s.new_zeros(())
        for displacement, (same, different) in zip(displacements, weights):
            affinity = _affinity(unit_s, displacement)
            affinity = _EPSILON + (1 - 2 * _EPSILON) * affinity
            loss = loss - (same * affinity.log()).sum() / totals[0]
            loss = (
                loss
                - (different * (1 - affinity).log()).sum() / different_total
            )
        return loss


def semantic_affinity_edges(
    student: Tensor, teacher: Tensor, *, tau: float = 1.0
) -> tuple[Tensor, Tensor]:
    r"""The affinities of both as maps of edges, to be looked at.

    .. math::
        E_i = 1 - \min_{|x_j - x_i| = 1} a_{ij}

    with the affinities of :func:`semantic_affinity_loss`: 1 where a neighbor
    is surely of another class, 0 where all neighbors have the probabilities
    of the pixel.

    Args:
        student (Tensor): Student's class logits.
        teacher (Tensor): Teacher's class logits; those of another resolution
            are resized as in the loss.
        tau (float): Temperature of both softmaxes. Defaults to 1.0.

    Returns:
        tuple[Tensor, Tensor]: The edges of student and teacher, from 0 to 1,
        without gradient.

    Raises:
        TypeError: If one of both is no floating-point tensor.
        ValueError: If a shape or ``tau`` is invalid, or if the numbers of
            classes differ.

    Shape:
        - student: (N, K, H, W)
        - teacher: (N, K, h, w)
        - output: (N, 1, H, W), (N, 1, H, W)

    Example:
        >>> import torch
        >>> student = torch.zeros(1, 2, 1, 4)
        >>> teacher = torch.tensor([-99.0, -99.0, 99.0, 99.0]).view(1, 1, 1, 4)
        >>> teacher = torch.cat([teacher, -teacher], dim=1)
        >>> semantic_affinity_edges(student, teacher)[1]
        tensor([[[[0., 1., 1., 0.]]]])
    """
    with torch.no_grad():
        p_s, p_t = _probabilities(student, teacher, tau)
        return _edges(_unit(p_s)), _edges(_unit(p_t))


def _edges(unit: Tensor) -> Tensor:
    """How unlike its neighbors each pixel is, (N, 1, H, W)."""
    blank = torch.zeros_like(unit[:, 0])
    edges = edges_between_neighbors(
        blank, lambda displacement: 1 - _affinity(unit, displacement)
    )
    return edges[:, None]


def _probabilities(
    student: Tensor, teacher: Tensor, tau: float
) -> tuple[Tensor, Tensor]:
    """p = softmax(l / tau) of both, (N, K, H, W), in float32 or float64."""
    check_logits(student, teacher)
    check_classes('student', student)
    if not tau > 0:
        raise ValueError(
            f'Expected a positive tau, but got {tau}; pass e.g. tau=1.0'
        )
    with torch.autocast(student.device.type, enabled=False):
        student = student.to(torch.promote_types(student.dtype, torch.float32))
        teacher = resized(
            teacher.detach().to(student.dtype), student.shape[-2:]
        )
        return (
            torch.softmax(student / tau, dim=1),
            torch.softmax(teacher / tau, dim=1),
        )


def _unit(p: Tensor) -> Tensor:
    """p / |p| over the channels, (N, K, H, W)."""
    return p / torch.linalg.vector_norm(p, dim=1, keepdim=True)


def _affinity(unit: Tensor, displacement: Displacement) -> Tensor:
    """a_ij, the cosine of unit vectors, of all pairs j = i + d, (N, h, w)."""
    # Rounding may take it beyond 1.
    unit_i, unit_j = pair_ends(unit, displacement)
    return (unit_i * unit_j).sum(dim=1).clamp(max=1)
