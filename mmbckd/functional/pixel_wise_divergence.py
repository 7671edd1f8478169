"""Knowledge distillation of logits, pixel by pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .maps import at_one_size, check_classes, check_logits


def pixel_wise_divergence(
    student: Tensor, teacher: Tensor, *, tau: float = 1.0
) -> Tensor:
    r"""KL divergence of the class probabilities of every pixel.

    .. math::
        L_{KD} = \frac{\tau^2}{N\,HW} \sum_{n, i}
                 \sum_c p^T_i(c) \log \frac{p^T_i(c)}{p^S_i(c)}, \qquad
        p = \mathrm{softmax}_c(l / \tau)

    The sum over the classes c is not divided by their number, the mean is
    over images and pixels, and :math:`\tau^2` keeps the size of the gradient.
    If H x W differ, the logits with more pixels are resized bilinearly
    (``align_corners=False``) to the size of the others. The loss is computed
    in float32, also under autocast, or in float64 if ``student`` is float64.
    The gradient reaches ``student`` only.

    Args:
        student (Tensor): Student's class logits l.
        teacher (Tensor): Teacher's class logits.
        tau (float): Temperature of both softmaxes. Defaults to 1.0.

    Returns:
        Tensor: The loss, a scalar of at least 0.

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If a shape or ``tau`` is invalid, or if the numbers of
            classes differ.

    Shape:
        - student: (N, K, H_S, W_S)
        - teacher: (N, K, H_T, W_T)
        - output: ()

    References:
        Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network.
        NIPS Deep Learning Workshop 2014. Pixel by pixel: Liu et al.
        Structured Knowledge Distillation for Semantic Segmentation. CVPR
        2019.

    Example:
        >>> import torch
        >>> student = torch.zeros(1, 2, 4, 4, requires_grad=True)
        >>> teacher = torch.tensor([9.0, -9.0]).view(1, 2, 1, 1)
        >>> loss = pixel_wise_divergence(student, teacher.expand(1, 2, 4, 4))
        >>> print(f'{loss.item():.4f}')  # certain against undecided: log 2
        0.6931
    """
    check_logits(student, teacher)
    check_classes('student', student)
    if not tau > 0:
        raise ValueError(
            f'Expected a positive tau, but got {tau}; pass e.g. tau=1.0'
        )
    with torch.autocast(student.device.type, enabled=False):
        student = student.to(torch.promote_types(student.dtype, torch.float32))
        teacher = teacher.detach().to(student.dtype)
        student, teacher = at_one_size(student, teacher)
        divergence = F.kl_div(
            torch.log_softmax(student / tau, dim=1),
            torch.softmax(teacher / tau, dim=1),
            reduction='none',
        ).sum(dim=1)
        return tau**2 * divergence.mean()
