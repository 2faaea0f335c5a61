"""gelu_tanh(x gate^T) * (x up^T): the first half of a gated MLP, for the rows at work. Not yet measured on a GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgbatch.engine.kernels.gelu import gate_with_gelu
from dgbatch.engine.kernels.launch import INTERPRETED, architecture, shares_little, stages_of
from dgbatch.engine.kernels.linear import BLOCK_K, BLOCK_ROWS, ENOUGH_PROGRAMS, Columns


@triton.jit
def _gated(
    x,
    gate_up,
    span,
    out,
    I,  # noqa: E741
    K,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    UPCAST: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    first, end = tl.load(span), tl.load(span + 1)
    if (tl.program_id(0) * BLOCK_ROWS >= end) | (tl.program_id(0) * BLOCK_ROWS + BLOCK_ROWS <= first):
        return
    columns = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    k = tl.arange(0, BLOCK_K)
    at_work = (rows >= first) & (rows < end)
    x_at = x + rows[:, None].to(tl.int64) * K + k[None, :]
    gate_at = gate_up + columns[:, None].to(tl.int64) * K + k[None, :]
    up_at = gate_up + (I + columns)[:, None].to(tl.int64) * K + k[None, :]
    gate = tl.zeros((BLOCK_ROWS, BLOCK_I), tl.float32)
    up = tl.zeros((BLOCK_ROWS, BLOCK_I), tl.float32)
    for start in range(0, K, BLOCK_K):
        if EVEN_K:
            a = tl.load(x_at, mask=at_work[:, None], other=0.0)
            b = tl.load(gate_at, mask=columns[:, None] < I, other=0.0)
            c = tl.load(up_at, mask=columns[:, None] < I, other=0.0)
        else:
            there = k[None, :] < K - start
            a = tl.load(x_at, mask=at_work[:, None] & there, other=0.0)
            b = tl.load(gate_at, mask=(columns[:, None] < I) & there, other=0.0)
            c = tl.load(up_at, mask=(columns[:, None] < I) & there, other=0.0)
        if UPCAST:
            a, b, c = a.to(tl.float32), b.to(tl.float32), c.to(tl.float32)
        gate = tl.dot(a, b.T, gate, input_precision="ieee")
        up = tl.dot(a, c.T, up, input_precision="ieee")
        x_at += BLOCK_K
        gate_at += BLOCK_K
        up_at += BLOCK_K
    out_at = out + rows[:, None].to(tl.int64) * I + columns[None, :]
    mask = at_work[:, None] & (columns[None, :] < I)
    tl.store(out_at, gate_with_gelu(gate, up, out.dtype.element_ty), mask=mask)


def gated(x: Tensor, gate_up: Tensor, span: Tensor) -> Tensor:
    """gelu_tanh(x gate^T) * (x up^T), both products rounded to x's dtype before.

    x: (M, K); gate_up: (2 I, K), gate rows first; span: (2,) int32; returns (M, I) like x, undefined outside the span
    """
    (rows, k), width = x.shape, gate_up.shape[0] // 2
    out = torch.empty(rows, width, dtype=x.dtype, device=x.device)
    block_i, num_warps, num_stages = configuration(rows, width, architecture(x))
    _gated[(triton.cdiv(rows, BLOCK_ROWS), triton.cdiv(width, block_i))](
        x,
        gate_up,
        span,
        out,
        width,
        k,
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_I=block_i,
        BLOCK_K=BLOCK_K,
        EVEN_K=k % BLOCK_K == 0,
        UPCAST=INTERPRETED,
        num_warps=num_warps,
        num_stages=stages_of(x, num_stages),
    )
    return out


def configuration(rows: int, width: int, arch: int) -> Columns:
    """As linear's, but every block is of gate and of up."""
    if shares_little(arch):  # 99 KB of shared memory
        return Columns(64, 8, 4)
    if triton.cdiv(rows, BLOCK_ROWS) * triton.cdiv(width, 128) >= ENOUGH_PROGRAMS:
        return Columns(128, 8, 4)
    return Columns(64, 8, 4)
