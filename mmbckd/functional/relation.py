"""Context distillation: the relation of every pixel to every other."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .checks import check_map

# Elements of a block of relation rows, 4 MiB in float32, of which three are
# held. Larger blocks are hardly faster.
_BLOCK_ELEMENTS = 2**20
# A logit that leaves its pixel out: exp gives 0 next to any other logit, and
# the difference of two such is 0 (that of two infinities were NaN).
_EXCLUDED = -1e30


def relation_kl(student: Tensor,
                teacher: Tensor,
                *,
                tau: float = 0.1,
                exclude_self: bool = False,
                center: bool = False,
                block_size: int | None = None) -> Tensor:
    r"""Context distillation loss: KL divergence of the self-relations.

    .. math::
        L_{CD} = \frac{1}{N\,HW} \sum_{n, i} KL(R^T_i \,\|\, R^S_i), \qquad
        R_{ij} = \mathrm{softmax}_j(\langle\hat f_i, \hat f_j\rangle / \tau),
        \qquad \hat f_i = f_i / |f_i|

    A zero vector stays zero and takes no gradient. The relations are
    computed exactly, but only ``block_size`` rows of them exist at a time.
    If H x W differ, the map with more pixels is resized to the other by
    ``F.interpolate(mode='bilinear', align_corners=False)``, without
    antialiasing. The loss is computed in float32, also under autocast, or in
    float64 if ``student`` is float64. The gradient reaches ``student`` only;
    it cannot be differentiated again.

    Args:
        student (Tensor): Student's features.
        teacher (Tensor): Teacher's features; their number of channels may
            differ from the student's.
        tau (float): Temperature of the relations. Defaults to 0.1.
        exclude_self (bool): Whether to leave the relation of a pixel to
            itself out of both softmaxes. Defaults to False.
        center (bool): Whether to subtract each image's mean feature first.
            Defaults to False.
        block_size (int, optional): Rows of a relation held at once; the
            result does not depend on it. None chooses it by the number of
            pixels. Defaults to None.

    Returns:
        Tensor: The loss, a scalar.

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If a shape, ``tau`` or ``block_size`` is invalid.

    Shape:
        - student: (N, C_S, H_S, W_S)
        - teacher: (N, C_T, H_T, W_T)
        - output: ()

    References:
        Zhang, Dong, Chen, Cheng. Towards Customized Knowledge Distillation
        for Efficient Dense Image Predictions. TMLR 2026: context by
        self-relations (the formula is this project's own statement).
        Dao et al. FlashAttention. NeurIPS 2022, the streaming by blocks.

    Example:
        >>> import torch
        >>> student = torch.randn(2, 32, 8, 16, requires_grad=True)
        >>> teacher = torch.randn(2, 64, 16, 32)
        >>> loss = relation_kl(student, teacher)
        >>> loss.backward()
        >>> loss.shape, student.grad.shape
        (torch.Size([]), torch.Size([2, 32, 8, 16]))
    """
    _check_arguments(student, teacher, tau, block_size)
    with torch.autocast(student.device.type, enabled=False):
        student = student.to(torch.promote_types(student.dtype,
                                                 torch.float32))
        teacher = teacher.detach().to(student.dtype)
        student, teacher = _to_same_size(student, teacher)
        f_s = _unit_features(student, center)
        f_t = _unit_features(teacher, center)
        with_grad = torch.is_grad_enabled() and f_s.requires_grad
        return _RelationKL.apply(f_s, f_t, tau, exclude_self, block_size,
                                 with_grad)


def _to_same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Resize the map with more pixels to the other one."""
    size_s, size_t = student.shape[-2:], teacher.shape[-2:]
    options = dict(mode='bilinear', align_corners=False)
    if size_s.numel() > size_t.numel():
        student = F.interpolate(student, size=size_t, **options)
    elif size_s != size_t:
        teacher = F.interpolate(teacher, size=size_s, **options)
    return student, teacher


def _unit_features(features: Tensor, center: bool) -> Tensor:
    """f / |f| of each pixel, (N, C, HW)."""
    f = features.flatten(2)
    if center:
        f = f - f.mean(dim=2, keepdim=True)
    norm = torch.linalg.vector_norm(f, dim=1, keepdim=True)
    # Division by infinity makes the value and the gradient 0. F.normalize
    # would multiply the gradient of a dead pixel by 1e12.
    return f / norm.masked_fill(norm < 1e-12, torch.inf)


class _RelationKL(torch.autograd.Function):
    """mean_i KL(R^T_i || R^S_i) of unit features, block by block of rows.

    For the logits s_ij = <f_i, f_j> / tau of the student,
    dL/ds_ij = (R^S_ij - R^T_ij) / (N HW), and s_ij depends on f_i and on
    f_j. The loss is a scalar, so that the forward can already compute the
    gradient while it holds the rows; the backward scales it. Recomputing the
    rows in the backward would cost both Gram products once more.
    """

    @staticmethod
    def forward(ctx, f_s: Tensor, f_t: Tensor, tau: float,
                exclude_self: bool, block_size: int | None,
                with_grad: bool) -> Tensor:
        num_images, _, num_pixels = f_s.shape
        block_size = min(block_size or _auto_block_size(num_pixels),
                         num_pixels)
        buffers = f_s.new_empty(3, block_size, num_pixels)
        total = f_s.new_zeros(())
        grad = torch.zeros_like(f_s) if with_grad else None

        for n in range(num_images):
            for start in range(0, num_pixels, block_size):
                rows = slice(start, start + block_size)
                logits, log_r_s, log_r_t = buffers[:, :num_pixels - start]
                _log_relation(f_s[n], rows, tau, exclude_self, logits,
                              log_r_s)
                _log_relation(f_t[n], rows, tau, exclude_self, logits,
                              log_r_t)
                # The buffers' contents change below; so do their names.
                log_ratio = torch.sub(log_r_t, log_r_s, out=logits)
                r_t = log_r_t.exp_()
                total += torch.linalg.vecdot(r_t, log_ratio).sum()
                if with_grad:
                    residual = log_r_s.exp_().sub_(r_t)
                    grad[n, :, rows].addmm_(f_s[n], residual.t())
                    grad[n].addmm_(f_s[n, :, rows], residual)

        num_rows = num_images * num_pixels
        if with_grad:
            ctx.save_for_backward(grad.div_(tau * num_rows))
        return total / num_rows

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss: Tensor):
        grad, = ctx.saved_tensors
        return grad_loss * grad, None, None, None, None, None


def _log_relation(f: Tensor, rows: slice, tau: float, exclude_self: bool,
                  logits: Tensor, out: Tensor) -> None:
    """Write log R[rows] of (C, HW) to ``out``; ``logits`` is scratch."""
    torch.matmul(f[:, rows].t() / tau, f, out=logits)
    if exclude_self:
        logits.diagonal(rows.start).fill_(_EXCLUDED)
    torch.log_softmax(logits, dim=1, out=out)


def _auto_block_size(num_pixels: int) -> int:
    """Rows of a block; small relations too are never held as a whole."""
    return max(1, min(_BLOCK_ELEMENTS, num_pixels**2 // 8) // num_pixels)


def _check_arguments(student: Tensor, teacher: Tensor, tau: float,
                     block_size: int | None) -> None:
    check_map('student', student)
    check_map('teacher', teacher, like=student)
    if not tau > 0:
        raise ValueError(f'tau must be positive, but got {tau}; '
                         'pass e.g. tau=0.1')
    if block_size is not None:
        if not isinstance(block_size, int) or isinstance(block_size, bool):
            raise TypeError('block_size must be an integer or None, but got '
                            f'{type(block_size).__name__}')
        if block_size < 1:
            raise ValueError('block_size must be positive, but got '
                             f'{block_size}; pass None to choose it by size')
