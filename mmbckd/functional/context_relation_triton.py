"""The relation loss on NVIDIA GPUs: tiles that never leave the registers.

The formulas are those of :mod:`mmbckd.functional.context_relation`. A program
owns a block of rows and streams over all columns, so that nothing is added up
by several programs and results repeat. ``TRITON_INTERPRET=1`` runs it on a
CPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK_ROWS = 128
_BLOCK_COLS = 64
_BLOCK_K = 32  # channels of a step of a product
_MAX_BLOCK_C = 128  # channels of the gradient that a program holds
_LAUNCH = dict(num_warps=8, num_stages=3)
# See context_relation.py.
_EXCLUDED = tl.constexpr(-1e30)


def fused_relation_kl(
    f_s: Tensor, f_t: Tensor, exclude_self: bool, with_grad: bool, tf32: bool
) -> tuple[Tensor, Tensor | None]:
    """Sum over images and rows of KL(R^T_i || R^S_i), in bits.

    It runs on the current device, which has to be that of the features.

    Args:
        f_s (Tensor): Student's scaled features, float32, (N, HW, C_S).
        f_t (Tensor): Teacher's, (N, HW, C_T).
        exclude_self (bool): Whether the diagonals are left out.
        with_grad (bool): Whether the gradient is wanted.
        tf32 (bool): Whether products may be of TF32's precision. If not,
            three of them make up one of about float32's.

    Returns:
        tuple[Tensor, Tensor | None]: The sum, and its gradient by ``f_s``.
    """
    num_images, num_pixels, channels = f_s.shape
    options = dict(
        EXCLUDE_SELF=exclude_self,
        PRECISION='tf32' if tf32 else 'tf32x3',
        BLOCK_ROWS=_BLOCK_ROWS,
        BLOCK_COLS=_BLOCK_COLS,
        BLOCK_K=_BLOCK_K,
        **_LAUNCH,
    )
    c_s, z_s = _row_sums(f_s, options)
    c_t, z_t = _row_sums(f_t, options)

    block_c = min(_MAX_BLOCK_C, max(16, triton.next_power_of_2(channels)))
    cross = torch.empty_like(c_s)
    grad = torch.empty_like(f_s) if with_grad else None
    grid = (
        triton.cdiv(num_pixels, _BLOCK_ROWS),
        triton.cdiv(channels, block_c) if with_grad else 1,
        num_images,
    )
    _relation_kl_kernel[grid](
        f_s,
        f_t,
        c_s,
        1 / z_s,
        c_t,
        1 / z_t,
        cross,
        grad,
        num_pixels,
        C_S=channels,
        C_T=f_t.shape[2],
        BLOCK_C=block_c,
        WITH_GRAD=with_grad,
        **options,
    )
    rows = cross + torch.log2(z_s / z_t) + (c_s - c_t)
    return rows.sum(), grad


def _row_sums(f: Tensor, options: dict) -> tuple[Tensor, Tensor]:
    """c_i = max_j s_ij and Z_i = sum_j 2^(s_ij - c_i), (N, HW)."""
    num_images, num_pixels, channels = f.shape
    c, z = f.new_empty(2, num_images, num_pixels)
    grid = triton.cdiv(num_pixels, _BLOCK_ROWS), num_images
    _row_sums_kernel[grid](f, c, z, num_pixels, C=channels, **options)
    return c, z


@triton.jit
def _row_sums_kernel(
    f,
    c_out,
    z_out,
    num_pixels,
    C: tl.constexpr,
    EXCLUDE_SELF: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    first = tl.program_id(1).to(tl.int64) * num_pixels
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    f += first * C

    c = tl.full((BLOCK_ROWS,), float('-inf'), tl.float32)
    z = tl.zeros((BLOCK_ROWS,), tl.float32)
    for start in range(0, num_pixels, BLOCK_COLS):
        cols = start + tl.arange(0, BLOCK_COLS)
        s = _logits(
            f, rows, cols, num_pixels, C, EXCLUDE_SELF, PRECISION, BLOCK_K
        )
        larger = tl.maximum(c, tl.max(s, 1))
        z = z * tl.exp2(c - larger) + tl.sum(tl.exp2(s - larger[:, None]), 1)
        c = larger
    tl.store(c_out + first + rows, c, mask=rows < num_pixels)
    tl.store(z_out + first + rows, z, mask=rows < num_pixels)


@triton.jit
def _relation_kl_kernel(
    f_s,
    f_t,
    c_s,
    inverse_z_s,
    c_t,
    inverse_z_t,
    cross_out,
    grad_out,
    num_pixels,
    C_S: tl.constexpr,
    C_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    WITH_GRAD: tl.constexpr,
    EXCLUDE_SELF: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    first = tl.program_id(2).to(tl.int64) * num_pixels
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    f_s += first * C_S
    f_t += first * C_T
    c_s += first
    c_t += first
    inverse_z_s += first
    inverse_z_t += first

    inside = rows < num_pixels
    c_s_i = tl.load(c_s + rows, mask=inside, other=0)[:, None]
    c_t_i = tl.load(c_t + rows, mask=inside, other=0)[:, None]
    z_s_i = tl.load(inverse_z_s + rows, mask=inside, other=0)[:, None]
    z_t_i = tl.load(inverse_z_t + rows, mask=inside, other=0)[:, None]
    cross = tl.zeros((BLOCK_ROWS,), tl.float32)
    grad = tl.zeros((BLOCK_ROWS, BLOCK_C), tl.float32)
    for start in range(0, num_pixels, BLOCK_COLS):
        cols = start + tl.arange(0, BLOCK_COLS)
        s = _logits(
            f_s, rows, cols, num_pixels, C_S, EXCLUDE_SELF, PRECISION, BLOCK_K
        )
        t = _logits(
            f_t, rows, cols, num_pixels, C_T, EXCLUDE_SELF, PRECISION, BLOCK_K
        )
        r_t = tl.exp2(t - c_t_i) * z_t_i
        cross += tl.sum(r_t * (t - s), 1)
        if WITH_GRAD:
            within = cols < num_pixels
            c_s_j = tl.load(c_s + cols, mask=within, other=0)[None, :]
            c_t_j = tl.load(c_t + cols, mask=within, other=0)[None, :]
            z_s_j = tl.load(inverse_z_s + cols, mask=within, other=0)[None, :]
            z_t_j = tl.load(inverse_z_t + cols, mask=within, other=0)[None, :]
            residual = tl.exp2(s - c_s_i) * z_s_i - r_t
            residual += tl.exp2(s - c_s_j) * z_s_j
            residual -= tl.exp2(t - c_t_j) * z_t_j
            f_j = tl.load(
                f_s + cols[:, None] * C_S + channels[None, :],
                mask=within[:, None] & (channels < C_S)[None, :],
                other=0,
            )
            grad = tl.dot(residual, f_j, grad, input_precision=PRECISION)
    tl.store(
        cross_out + first + rows, cross, mask=inside & (tl.program_id(1) == 0)
    )
    if WITH_GRAD:
        tl.store(
            grad_out + first * C_S + rows[:, None] * C_S + channels[None, :],
            grad,
            mask=inside[:, None] & (channels < C_S)[None, :],
        )


@triton.jit
def _logits(
    f,
    rows,
    cols,
    num_pixels,
    C: tl.constexpr,
    EXCLUDE_SELF: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """s_ij of a tile."""
    logits = tl.zeros((rows.shape[0], cols.shape[0]), tl.float32)
    for k in range(0, C, BLOCK_K):
        channels = k + tl.arange(0, BLOCK_K)
        f_i = tl.load(
            f + rows[:, None] * C + channels[None, :],
            mask=(rows < num_pixels)[:, None] & (channels < C)[None, :],
            other=0,
        )
        f_j = tl.load(
            f + cols[None, :] * C + channels[:, None],
            mask=(cols < num_pixels)[None, :] & (channels < C)[:, None],
            other=0,
        )
        logits = tl.dot(f_i, f_j, logits, input_precision=PRECISION)
    excluded = cols[None, :] >= num_pixels
    if EXCLUDE_SELF:
        excluded = excluded | (rows[:, None] == cols[None, :])
    return tl.where(excluded, _EXCLUDED, logits)
