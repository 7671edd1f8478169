"""Context distillation: the relation of every pixel to every other."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .maps import at_one_size, check_map

# Pixels at a side of the tiles that the relations are computed in. On a CPU
# the few tiles that are held stay in the cache, and larger ones are no faster;
# a GPU wants large products.
_CPU_TILE = 512
_GPU_TILE = 2048
# A logit that leaves its pixel out: exp2 gives 0 next to any other logit, and
# the difference of two such is 0 (that of two infinities were NaN).
_EXCLUDED = -1e30
# Sums of up to 2**26 powers of two within +-50 lie between 2**-50 and 2**76:
# they, their inverses and the quotient of any two are normal in float32.
_MAX_EXPONENT = 50
_LN2 = math.log(2)


def relation_kl(
    student: Tensor,
    teacher: Tensor,
    *,
    tau: float = 0.1,
    exclude_self: bool = False,
    center: bool = False,
    block_size: int | None = None,
) -> Tensor:
    r"""Context distillation loss: KL divergence of the self-relations.

    .. math::
        L_{CD} = \frac{1}{N\,HW} \sum_{n, i} KL(R^T_i \,\|\, R^S_i), \qquad
        R_{ij} = \mathrm{softmax}_j(\langle\hat f_i, \hat f_j\rangle / \tau),
        \qquad \hat f_i = f_i / |f_i|

    A zero vector stays zero and takes no gradient. The relations are
    computed exactly, but only a tile of ``block_size`` rows and columns of
    them exists at a time. An NVIDIA GPU of compute capability 8.0 or more
    runs fused kernels where Triton is installed; these use TF32 if PyTorch's
    matrix products may, or if both features are of 16 bits.
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
        block_size (int | None): Rows and columns of the tiles that the
            relations are computed in; the result does not depend on it. The
            fused kernels choose their own. Defaults to None: chosen by
            device.

    Returns:
        Tensor: The loss, a scalar.

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If a shape, ``tau`` or ``block_size`` is invalid.

    Shape:
        - student: (N, C_S, H_S, W_S); where both have no pixels, as of a
          batch without objects, the loss is 0
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
    if all(
        isinstance(x, Tensor) and 0 in x.shape[2:] for x in (student, teacher)
    ):
        return student.sum()
    _check_arguments(student, teacher, tau, block_size)
    with torch.autocast(student.device.type, enabled=False):
        tf32 = _may_use_tf32(student, teacher)
        student, teacher = _comparable(student, teacher, center)
        f_s = _scaled_features(student.flatten(2), tau)
        return _RelationKL.apply(
            f_s, teacher.flatten(2), tau, exclude_self, block_size, tf32
        )


def relation_rows(
    student: Tensor,
    teacher: Tensor,
    points: Sequence[tuple[float, float]],
    *,
    tau: float = 0.1,
    exclude_self: bool = False,
    center: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Rows of the relations that :func:`relation_kl` compares.

    Row :math:`R_i`, laid out as a map, says how much the pixel at a point
    relates to every pixel.

    Args:
        student (Tensor): Student's features.
        teacher (Tensor): Teacher's features.
        points (Sequence[tuple[float, float]]): Where the pixels are, ``(y,
            x)`` as fractions of height and width, from 0 to below 1.
        tau (float): Temperature of the relations. Defaults to 0.1.
        exclude_self (bool): Whether to leave the relation of a pixel to
            itself out of the softmax. Defaults to False.
        center (bool): Whether to subtract each image's mean feature first.
            Defaults to False.

    Returns:
        tuple[Tensor, Tensor]: The student's and the teacher's rows, without
        gradient, at the size of the smaller map; each row sums to 1.

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If a shape, a point or ``tau`` is invalid.

    Shape:
        - student: (N, C_S, H_S, W_S)
        - teacher: (N, C_T, H_T, W_T)
        - points: (Q, 2)
        - output: (N, Q, H, W), (N, Q, H, W)

    Example:
        >>> import torch
        >>> student = torch.randn(2, 32, 8, 16)
        >>> teacher = torch.randn(2, 64, 16, 32)
        >>> rows_s, rows_t = relation_rows(student, teacher, [(0.5, 0.5)])
        >>> rows_s.shape, rows_t.shape
        (torch.Size([2, 1, 8, 16]), torch.Size([2, 1, 8, 16]))
    """
    _check_arguments(student, teacher, tau, block_size=None)
    places = torch.tensor(points, dtype=torch.float64)
    if places.shape[1:] != (2,) or not ((places >= 0) & (places < 1)).all():
        raise ValueError(
            'Expected points to be fractions (y, x) of height and width, '
            f'from 0 to below 1, but got {points}; pass e.g. '
            '[(0.5, 0.5)] for the center'
        )
    with torch.no_grad(), torch.autocast(student.device.type, enabled=False):
        student, teacher = _comparable(student, teacher, center)
        height, width = student.shape[-2:]
        y, x = (places * places.new_tensor([height, width])).long().T
        pixels = (y * width + x).tolist()
        rows = []
        for features in (student, teacher):
            f = _scaled_features(features.flatten(2), tau)
            logits = f[:, pixels] @ f.mT * _LN2
            if exclude_self:
                logits[:, range(len(pixels)), pixels] = _EXCLUDED
            rows.append(logits.softmax(dim=2).unflatten(2, (height, width)))
        return rows[0], rows[1]


def _comparable(
    student: Tensor, teacher: Tensor, center: bool
) -> tuple[Tensor, Tensor]:
    """Both in one precision and at one size, centered if asked for."""
    student = student.to(torch.promote_types(student.dtype, torch.float32))
    teacher = teacher.detach().to(student.dtype)
    student, teacher = at_one_size(student, teacher)
    if center:
        student = student - student.mean(dim=(2, 3), keepdim=True)
        teacher = teacher - teacher.mean(dim=(2, 3), keepdim=True)
    return student, teacher


def _scaled_features(f: Tensor, tau: float) -> Tensor:
    """f / |f| times the root of log2(e) / tau, (..., C, HW) -> (..., HW, C).

    Their products are the logits in base 2, so that R is the softmax of them
    with exp2, which is a quarter of exp's time on a CPU.
    """
    norm = torch.linalg.vector_norm(f, dim=-2, keepdim=True)
    # Division by infinity makes the value and the gradient 0. F.normalize
    # would multiply the gradient of a dead pixel by 1e12.
    norm = norm.masked_fill(norm < 1e-12, torch.inf)
    return (f / (norm * math.sqrt(tau * _LN2))).mT.contiguous()


class _RelationKL(torch.autograd.Function):
    """mean_i KL(R^T_i || R^S_i) of the student's scaled features.

    For the logits s_ij = <f_i, f_j> of the student,
    dL/ds_ij = (R^S_ij - R^T_ij) / (N HW), and s_ij depends on f_i and on
    f_j. The loss is a scalar, so that the forward can already compute the
    gradient while it holds the relations; the backward scales it.
    """

    @staticmethod
    def forward(
        ctx,
        f_s: Tensor,
        teacher: Tensor,
        tau: float,
        exclude_self: bool,
        block_size: int | None,
        tf32: bool,
    ) -> Tensor:
        with_grad = ctx.needs_input_grad[0]
        if _runs_triton(f_s):
            from .context_relation_triton import fused_relation_kl

            f_t = _scaled_features(teacher, tau)
            with torch.cuda.device_of(f_s):
                total, grad = fused_relation_kl(
                    f_s, f_t, exclude_self, with_grad, tf32
                )
        else:
            total, grad = _tiled_relation_kl(
                f_s, teacher, tau, exclude_self, block_size, with_grad
            )
        scale = _LN2 / f_s[..., 0].numel()
        if grad is not None:
            ctx.save_for_backward(grad.mul_(scale))
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss: Tensor):
        (grad,) = ctx.saved_tensors
        return grad_loss * grad, None, None, None, None, None


def _tiled_relation_kl(
    f_s: Tensor,
    teacher: Tensor,
    tau: float,
    exclude_self: bool,
    block_size: int | None,
    with_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    r"""Sum over images and rows of KL(R^T_i || R^S_i), in bits.

    With the logits s and t of student and teacher, and the shifts c and sums
    Z of :class:`_Relation`,

    .. math::
        KL_i = \sum_j R^T_{ij} (t_{ij} - s_{ij})
               + (c^S_i - c^T_i) + \log_2 (Z^S_i / Z^T_i), \qquad
        \frac{dL}{df_i} = \sum_j (M^S_{ij} - M^T_{ij}) f_j, \qquad
        M_{ij} = R_{ij} + R_{ji}

    The logits are symmetric, and so is M. Hence the upper triangle of tiles
    suffices, once for Z and once more for the rest: fewer products than whole
    rows take, and no row is ever held.
    """
    block_size = block_size or _auto_block_size(f_s)
    total = f_s.new_zeros(())
    grad = torch.zeros_like(f_s) if with_grad else None
    for n, f in enumerate(f_s):
        relation_s = _Relation(f, tau, exclude_self, block_size)
        relation_t = _Relation(
            _scaled_by_blocks(teacher[n], tau, block_size),
            tau,
            exclude_self,
            block_size,
        )
        total += (relation_s.shift - relation_t.shift).sum()
        total += torch.log2(relation_s.row_sum / relation_t.row_sum).sum()
        for rows, columns in _upper_tiles(len(f), block_size):
            s = relation_s.logits(rows, columns)
            t = relation_t.logits(rows, columns)
            m_t = relation_t.both_ways(t, rows, columns)
            # R^T_ij and R^T_ji weigh the same difference. A tile on the
            # diagonal holds both orders of each of its pairs.
            cross = torch.dot(m_t.flatten(), (t - s).flatten())
            total += cross / 2 if rows == columns else cross
            if grad is not None:
                residual = relation_s.both_ways(s, rows, columns) - m_t
                grad[n, rows] += torch.mm(residual, f[columns])
                if rows != columns:
                    grad[n, columns] += torch.mm(residual.T, f[rows])
    return total, grad


class _Relation:
    r"""The relation R of one image's pixels, of which only tiles are held.

    .. math::
        R_{ij} = 2^{s_{ij} - c_i} / Z_i, \qquad
        Z_i = \sum_j 2^{s_{ij} - c_i}, \qquad
        s_{ij} = \langle f_i, f_j \rangle

    The features f are those of :func:`_scaled_features`, so that the logits
    s are in base 2 and :math:`|s_{ij}| \le 1 / (\tau \ln 2)`. Any shift c
    gives the same R. Where that bound is within ``_MAX_EXPONENT``, no power
    leaves the range of float32: c is 0, and one power serves :math:`R_{ij}`
    and :math:`R_{ji}`. Elsewhere :math:`c_i = \max_j s_{ij}`.

    Args:
        features (Tensor): Scaled features f.
        tau (float): Temperature of the features.
        exclude_self (bool): Whether the diagonal is left out.
        block_size (int): Rows and columns of a tile.

    Attributes:
        shift (Tensor): c.
        row_sum (Tensor): Z.

    Shape:
        - features: (HW, C)
        - shift, row_sum: (HW, )
    """

    def __init__(
        self,
        features: Tensor,
        tau: float,
        exclude_self: bool,
        block_size: int,
    ) -> None:
        self.features = features
        self.exclude_self = exclude_self
        self.is_shifted = 1 / (tau * _LN2) > _MAX_EXPONENT
        num_pixels = len(features)
        self.row_sum = features.new_zeros(num_pixels)
        self.shift = features.new_zeros(num_pixels)
        if self.is_shifted:
            self.shift.fill_(-torch.inf)
        for rows, columns in _upper_tiles(num_pixels, block_size):
            logits = self.logits(rows, columns)
            if self.is_shifted:
                self._add_shifted(logits, rows)
                if rows != columns:
                    self._add_shifted(logits.T, columns)
            else:
                powers = logits.exp2_()
                self.row_sum[rows] += powers.sum(dim=1)
                if rows != columns:
                    self.row_sum[columns] += powers.sum(dim=0)
        # A single pixel without itself relates to nothing: 0 / Z is to be 0.
        self.row_sum.clamp_(min=torch.finfo(features.dtype).tiny)

    def logits(self, rows: slice, columns: slice) -> Tensor:
        """s_ij of a tile."""
        logits = torch.mm(self.features[rows], self.features[columns].T)
        if self.exclude_self and rows == columns:
            logits.fill_diagonal_(_EXCLUDED)
        return logits

    def both_ways(self, logits: Tensor, rows: slice, columns: slice) -> Tensor:
        """M_ij = R_ij + R_ji of a tile, from its logits."""
        z_i, z_j = self.row_sum[rows, None], self.row_sum[columns]
        if not self.is_shifted:
            return torch.exp2(logits).mul_(1 / z_i + 1 / z_j)
        r_ij = torch.exp2(logits - self.shift[rows, None]).div_(z_i)
        r_ji = torch.exp2(logits - self.shift[columns]).div_(z_j)
        return r_ij.add_(r_ji)

    def _add_shifted(self, logits: Tensor, rows: slice) -> None:
        """Add a tile to Z of its rows, and move c to the maximum so far."""
        shift = torch.maximum(self.shift[rows], logits.amax(dim=1))
        self.row_sum[rows] *= torch.exp2(self.shift[rows] - shift)
        self.row_sum[rows] += torch.exp2(logits - shift[:, None]).sum(dim=1)
        self.shift[rows] = shift


def _upper_tiles(
    num_pixels: int, block_size: int
) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the tiles on and above the diagonal."""
    blocks = [
        slice(start, min(start + block_size, num_pixels))
        for start in range(0, num_pixels, block_size)
    ]
    return itertools.combinations_with_replacement(blocks, 2)


def _scaled_by_blocks(f: Tensor, tau: float, block_size: int) -> Tensor:
    """:func:`_scaled_features` of one image, (C, HW) -> (HW, C).

    A teacher's features may be the largest tensor of all: block by block,
    they are copied as a whole only once.
    """
    scaled = f.new_empty(f.T.shape)
    for out, block in zip(
        scaled.split(block_size), f.split(block_size, dim=1)
    ):
        out.copy_(_scaled_features(block, tau))
    return scaled


def _auto_block_size(f: Tensor) -> int:
    """Pixels at a side of a tile for features (N, HW, C)."""
    largest = _CPU_TILE if f.device.type == 'cpu' else _GPU_TILE
    # Small relations too are never held as a whole.
    return min(largest, math.ceil(f.shape[1] / 2))


def _runs_triton(f: Tensor) -> bool:
    """Whether the fused kernels run on these features."""
    return (
        f.is_cuda
        and f.dtype == torch.float32
        and torch.version.hip is None
        and torch.cuda.get_device_capability(f.device) >= (8, 0)
        and _has_triton()
    )


@functools.cache
def _has_triton() -> bool:
    try:
        import triton
    except ImportError:
        return False
    # Triton 2 cannot be told the precision of a product.
    return int(triton.__version__.split('.')[0]) >= 3


def _may_use_tf32(student: Tensor, teacher: Tensor) -> bool:
    """TF32 keeps more than 16-bit features hold; else it is the user's say."""
    if student.dtype.itemsize == teacher.dtype.itemsize == 2:
        return True
    matmul = torch.backends.cuda.matmul
    if hasattr(torch.backends, 'fp32_precision'):  # PyTorch >= 2.9
        return matmul.fp32_precision == 'tf32'
    return matmul.allow_tf32


def _check_arguments(
    student: Tensor, teacher: Tensor, tau: float, block_size: int | None
) -> None:
    check_map('student', student)
    check_map('teacher', teacher, like=student)
    if not tau > 0:
        raise ValueError(
            f'Expected a positive tau, but got {tau}; pass e.g. tau=0.1'
        )
    if block_size is not None:
        if not isinstance(block_size, int) or isinstance(block_size, bool):
            raise TypeError(
                'Expected block_size to be an integer or None, but got '
                f'{type(block_size).__name__}'
            )
        if block_size < 1:
            raise ValueError(
                f'Expected a positive block_size, but got {block_size}; pass '
                'None to choose it by device'
            )
