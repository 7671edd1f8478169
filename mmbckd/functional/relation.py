"""Context distillation: the relation of every pixel to every other."""
from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .checks import check_map

# Pixels at a side of the tiles that the relations are computed in. On a CPU
# the few tiles that are held stay in the cache, and larger ones are no faster;
# a GPU wants large products.
_CPU_TILE = 512
_GPU_TILE = 2048
# A logit that leaves its pixel out: exp2 gives 0 next to any other logit, and
# the difference of two such is 0 (that of two infinities were NaN).
_EXCLUDED = -1e30
# Sums of up to 2**26 powers of two within +- this stay normal in float32.
_MAX_EXPONENT = 100
_LN2 = math.log(2)
_HAS_ONEDNN = (
    torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, '_linear_pointwise'))  # not a public name


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
        block_size (int, optional): Rows and columns of the tiles that the
            relations are computed in; the result does not depend on it. None
            chooses it by the device. The fused kernels choose their own.
            Defaults to None.

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
        tf32 = _may_use_tf32(student, teacher)
        student, teacher = _comparable(student, teacher, center)
        f_s = _scaled_features(student.flatten(2), tau)
        return _RelationKL.apply(f_s, teacher.flatten(2), tau, exclude_self,
                                 block_size, tf32)


def relation_rows(student: Tensor,
                  teacher: Tensor,
                  points: Sequence[tuple[float, float]],
                  *,
                  tau: float = 0.1,
                  exclude_self: bool = False,
                  center: bool = False) -> tuple[Tensor, Tensor]:
    r"""Rows of the relations that :func:`relation_kl` compares.

    Row :math:`R_i`, laid out as a map, says how much the pixel at a point
    relates to every pixel.

    Args:
        student (Tensor): Student's features.
        teacher (Tensor): Teacher's features.
        points (Sequence[tuple[float, float]]): Where the pixels are, ``(y,
            x)`` as shares of height and width, from 0 to below 1.
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
    if places.shape[1:] != (2, ) or not ((places >= 0) & (places < 1)).all():
        raise ValueError('points must be shares (y, x) of height and width, '
                         f'from 0 to below 1, but got {points}; pass e.g. '
                         '[(0.5, 0.5)] for the centre')
    with torch.no_grad(), \
            torch.autocast(student.device.type, enabled=False):
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


def _comparable(student: Tensor, teacher: Tensor,
                center: bool) -> tuple[Tensor, Tensor]:
    """Both in one precision, the map with more pixels resized to the other,
    perhaps centred."""
    student = student.to(torch.promote_types(student.dtype, torch.float32))
    teacher = teacher.detach().to(student.dtype)
    size_s, size_t = student.shape[-2:], teacher.shape[-2:]
    options = dict(mode='bilinear', align_corners=False)
    if size_s.numel() > size_t.numel():
        student = F.interpolate(student, size=size_t, **options)
    elif size_s != size_t:
        teacher = F.interpolate(teacher, size=size_s, **options)
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
    def forward(ctx, f_s: Tensor, teacher: Tensor, tau: float,
                exclude_self: bool, block_size: int | None,
                tf32: bool) -> Tensor:
        with_grad = ctx.needs_input_grad[0]
        if _runs_triton(f_s):
            from .relation_triton import fused_relation_kl
            f_t = _scaled_features(teacher, tau)
            with torch.cuda.device_of(f_s):
                total, grad = fused_relation_kl(f_s, f_t, exclude_self,
                                                with_grad, tf32)
        else:
            total, grad = _tiled_relation_kl(f_s, teacher, tau, exclude_self,
                                             block_size, with_grad)
        scale = _LN2 / f_s[..., 0].numel()
        if with_grad:
            ctx.save_for_backward(grad.mul_(scale))
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss: Tensor):
        grad, = ctx.saved_tensors
        return grad_loss * grad, None, None, None, None, None


def _tiled_relation_kl(f_s: Tensor, teacher: Tensor, tau: float,
                       exclude_self: bool, block_size: int | None,
                       with_grad: bool) -> tuple[Tensor, Tensor | None]:
    r"""Sum over images and rows of KL(R^T_i || R^S_i), in bits.

    With the normalisers Z of the rows,

    .. math::
        KL_i = \sum_j R^T_{ij} (t_{ij} - s_{ij}) - \log_2 Z^T_i
               + \log_2 Z^S_i, \qquad
        \frac{dL}{df_i} = \sum_j (M^S_{ij} - M^T_{ij}) f_j, \qquad
        M_{ij} = R_{ij} + R_{ji}

    The logits s and t of student and teacher are symmetric, and so is M.
    Hence the upper triangle of tiles suffices, once for Z and once more for
    the rest: fewer products than whole rows take, and no row is ever held.
    """
    block_size = block_size or _auto_block_size(f_s)
    options = tau, exclude_self
    total = f_s.new_zeros(())
    grad = torch.zeros_like(f_s) if with_grad else None
    for n in range(len(f_s)):
        blocks = f_s[n].split(block_size)
        relation_s = _Relation(blocks, *options)
        # The teacher's features may be the largest tensor here: scaled block
        # by block, their copies fit where tiles were.
        relation_t = _Relation([
            _scaled_features(block, tau)
            for block in teacher[n].split(block_size, dim=1)
        ], *options)
        total += relation_s.log_z_over(relation_t)
        grads = grad[n].split(block_size) if with_grad else ()
        for i, j in relation_s.upper_tiles():
            s = relation_s.logits(i, j)
            t = relation_t.logits(i, j)
            difference = t - s
            mutual_t = relation_t.mutual_(t, i, j)
            cross = torch.dot(mutual_t.flatten(), difference.flatten())
            total += cross / 2 if i == j else cross
            if with_grad:
                residual = relation_s.mutual_(s, i, j).sub_(mutual_t)
                grads[i].add_(_matmul(residual, blocks[j]))
                if i != j:
                    grads[j].add_(_matmul(blocks[i].t(), residual).t())
    return total, grad


class _Relation:
    """R_ij = 2^(s_ij - c_i) / Z_i of one image, tile by tile.

    No logit of unit vectors is beyond 1 / tau. Hence, unless tau is tiny, a
    softmax needs no maximum: c is 0, and one power serves R_ij and R_ji.

    Args:
        blocks (Sequence[Tensor]): Scaled features of some pixels each,
            (P, C). ``c`` and ``z`` are theirs.
        tau (float): Temperature of the features.
        exclude_self (bool): Whether the diagonal is left out.
    """

    def __init__(self, blocks: Sequence[Tensor], tau: float,
                 exclude_self: bool) -> None:
        self.blocks = blocks
        self.exclude_self = exclude_self
        self.bounded = 1 / (tau * _LN2) <= _MAX_EXPONENT
        self.c = [
            f.new_full((len(f), ), 0 if self.bounded else -torch.inf)
            for f in blocks
        ]
        self.z = [f.new_zeros(len(f)) for f in blocks]
        for i, j in self.upper_tiles():
            self._add_to_z(i, j)
        for z in self.z:  # a single pixel without itself relates to nothing
            z.clamp_(min=torch.finfo(z.dtype).tiny)

    def upper_tiles(self) -> Iterator[tuple[int, int]]:
        """(i, j) with i <= j."""
        return itertools.combinations_with_replacement(
            range(len(self.blocks)), 2)

    def logits(self, i: int, j: int) -> Tensor:
        """The logits of a tile."""
        logits = _matmul(self.blocks[i], self.blocks[j].t())
        if self.exclude_self and i == j:
            logits.fill_diagonal_(_EXCLUDED)
        return logits

    def mutual_(self, logits: Tensor, i: int, j: int) -> Tensor:
        """M = R + R^T of a tile, in place of its logits."""
        z_i, z_j = self.z[i][:, None], self.z[j]
        if self.bounded:
            return logits.exp2_().mul_(1 / z_i + 1 / z_j)
        r_ij = torch.exp2(logits - self.c[i][:, None]).div_(z_i)
        return logits.sub_(self.c[j]).exp2_().div_(z_j).add_(r_ij)

    def log_z_over(self, other: _Relation) -> Tensor:
        """Sum of log2(2^c_i Z_i) over all i, minus that of the other."""
        parts = zip(self.c, self.z, other.c, other.z)
        return sum((c - c_o + torch.log2(z / z_o)).sum()
                   for c, z, c_o, z_o in parts)

    def _add_to_z(self, i: int, j: int) -> None:
        logits = self.logits(i, j)
        sides = [(i, 1)] if i == j else [(i, 1), (j, 0)]
        if self.bounded:
            powers = logits.exp2_()
            for k, dim in sides:
                self.z[k] += powers.sum(dim)
            return
        for k, dim in sides:  # c becomes the maximum so far
            c = torch.maximum(self.c[k], logits.amax(dim))
            powers = torch.exp2(logits - c.unsqueeze(dim))
            self.z[k] *= torch.exp2(self.c[k] - c)
            self.z[k] += powers.sum(dim)
            self.c[k] = c


def _auto_block_size(f: Tensor) -> int:
    """Pixels at a side of a tile for features (N, HW, C)."""
    largest = _CPU_TILE if f.device.type == 'cpu' else _GPU_TILE
    # Small relations too are never held as a whole.
    return min(largest, math.ceil(f.shape[1] / 2))


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, on a CPU by oneDNN.

    torch.mm calls MKL, which leaves AVX-512 unused on AMD's processors:
    oneDNN was measured at twice its rate there.
    """
    if _HAS_ONEDNN and a.device.type == 'cpu' and a.dtype == torch.float32:
        return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, 'none', [],
                                                  '')
    return torch.mm(a, b)


def _runs_triton(f: Tensor) -> bool:
    """Whether the fused kernels run on these features."""
    return (f.is_cuda and f.dtype == torch.float32
            and torch.version.hip is None
            and torch.cuda.get_device_capability(f.device) >= (8, 0)
            and _has_triton())


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
    if hasattr(matmul, 'fp32_precision'):  # PyTorch >= 2.9
        return matmul.fp32_precision == 'tf32'
    return matmul.allow_tf32


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
