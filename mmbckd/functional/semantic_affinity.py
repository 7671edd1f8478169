"""Boundary distillation on the mask: affinities of class probabilities."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from .lines import Displacement, pair_displacements
from .maps import check_logits, resized, totals_over_group

# Share of either outcome that no student can rule out. It bounds the loss
# where a student sees no boundary at all between two pixels.
_EPSILON = 1e-4


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
                        {\sum_P w (1 - A)}, \qquad
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
    see to about 0. A term whose weights sum to 0 is 0.

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
    check_logits(student, teacher)
    if not tau > 0:
        raise ValueError(
            f'Expected a positive tau, but got {tau}; pass e.g. tau=1.0'
        )
    height, width = student.shape[-2:]
    pairs = [
        _ends(d, height, width)
        for d in pair_displacements(radius)
        if d[0] < height and abs(d[1]) < width
    ]
    with torch.autocast(student.device.type, enabled=False):
        student = student.to(torch.promote_types(student.dtype, torch.float32))
        teacher = resized(teacher.detach().to(student.dtype), (height, width))
        if not pairs:
            return student.sum() * 0
        p_t = torch.softmax(teacher / tau, dim=1)
        class_mass = p_t.sum(dim=(2, 3), keepdim=True)
        tiny = torch.finfo(p_t.dtype).tiny
        w = (p_t.square() / class_mass.clamp(min=tiny)).sum(dim=1)
        unit_t = _unit(p_t)
        unit_s = _unit(torch.softmax(student / tau, dim=1))

        weights = []
        for i, j in pairs:
            affinity = _cosine(unit_t[i], unit_t[j])
            w_ij = w[i] + w[j]
            weights.append((w_ij * affinity, w_ij * (1 - affinity)))
        totals = totals_over_group(
            torch.stack(
                [torch.stack([s.sum(), d.sum()]) for s, d in weights]
            ).sum(dim=0),
            group,
        )
        loss = student.new_zeros(())
        for (i, j), (same, different) in zip(pairs, weights):
            affinity = _cosine(unit_s[i], unit_s[j])
            affinity = _EPSILON + (1 - 2 * _EPSILON) * affinity
            loss = loss - (same * affinity.log()).sum() / totals[0]
            loss = loss - (different * (1 - affinity).log()).sum() / totals[1]
        return loss


def _unit(p: Tensor) -> Tensor:
    """p / |p| over the channels, (N, K, H, W)."""
    return p / torch.linalg.vector_norm(p, dim=1, keepdim=True)


def _cosine(unit_i: Tensor, unit_j: Tensor) -> Tensor:
    """Of unit vectors; rounding may take it beyond 1."""
    return (unit_i * unit_j).sum(dim=1).clamp(max=1)


def _ends(
    displacement: Displacement, height: int, width: int
) -> tuple[tuple, tuple]:
    """Indices of the first and of the second pixels of all pairs inside a
    map, for tensors (..., H, W)."""
    dy, dx = displacement
    left, right = max(-dx, 0), max(dx, 0)
    first = (..., slice(height - dy), slice(left, width - right))
    second = (..., slice(dy, height), slice(right, width - left))
    return first, second
