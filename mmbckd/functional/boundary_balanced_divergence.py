"""Knowledge distillation of logits that boundaries count for half of."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from .boundary_affinity import edges_of, semantic_weights, term_totals
from .pixel_wise_divergence import comparable, divergence_map


def boundary_balanced_divergence(
    student: Tensor,
    teacher: Tensor,
    *,
    radius: float = 3.0,
    tau: float = 1.0,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    r"""KL divergence of class probabilities, balanced over boundaries.

    .. math::
        L_{BKD} = \frac{1}{2} \left(
                  \frac{\sum_i E_i D_i}{\sum_i E_i}
                + \frac{\sum_i (1 - E_i) D_i}{\sum_i (1 - E_i)} \right),
        \qquad
        E_i = 1 - \min_{|x_j - x_i| < \gamma} \sum_c p^T_i(c)\, p^T_j(c)

    :math:`D_i` is the divergence of pixel i that
    :func:`pixel_wise_divergence` takes the mean of, and :math:`E_i` says how
    certain the teacher is that a boundary lies within :math:`\gamma` of it,
    by the affinity of :func:`boundary_affinity_loss`. So the few pixels along
    boundaries count as much as all others together. Sums are over the whole
    batch; a term whose weights sum to 0 is 0. Sizes, dtypes and gradients
    are treated as in :func:`pixel_wise_divergence`.

    Args:
        student (Tensor): Student's class logits.
        teacher (Tensor): Teacher's class logits.
        radius (float): :math:`\gamma`, in pixels of the smaller logits.
            Defaults to 3.0.
        tau (float): Temperature of the softmaxes of :math:`D_i`. Defaults to
            1.0.
        group (ProcessGroup | None): Processes of which each holds a part of
            the batch, as in :func:`boundary_affinity_loss`. Defaults to None.

    Returns:
        Tensor: The loss, a scalar of at least 0.

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If a shape, ``radius`` or ``tau`` is invalid, or if the
            numbers of classes differ.

    Shape:
        - student: (N, K, H_S, W_S)
        - teacher: (N, K, H_T, W_T)
        - output: ()

    References:
        This project's own. That boundaries are distilled apart from bodies
        is Liu et al. BPKD: Boundary Privileged Knowledge Distillation for
        Semantic Segmentation. WACV 2024, which takes them from the truth.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([9.0, -9.0]).view(1, 2, 1, 1)
        >>> teacher = teacher.repeat(1, 1, 4, 4)
        >>> teacher[..., 3] *= -1  # a boundary before the last column
        >>> student = torch.zeros(1, 2, 4, 4, requires_grad=True)
        >>> loss = boundary_balanced_divergence(student, teacher)
        >>> print(f'{loss.item():.4f}')  # both means are log 2
        0.6931
    """
    student, teacher = comparable(student, teacher)
    divergence = divergence_map(student, teacher, tau)
    edges = edges_of(
        semantic_weights(teacher, divergence, tau=1.0), divergence, radius
    )
    weights = torch.stack([edges, 1 - edges])
    near, far = weights / term_totals(weights, group)
    return ((near + far) * divergence).sum() / 2
