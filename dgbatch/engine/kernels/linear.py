"""x weight^T for the rows at work: the attention's projections and the dense MLP's last product.

Bound by memory at one canvas and by tensor cores from two on (184 rows on an H200). Not yet measured on a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgbatch.engine.kernels.launch import INTERPRETED, architecture, shares_little, stages_of

BLOCK_ROWS = 128
BLOCK_K = 64  # 128 bytes of a bfloat16 row: one swizzled line of shared memory. Never depends on the number of rows
ENOUGH_PROGRAMS = 80  # of 132 to 148 multiprocessors


@triton.jit
def _linear(
    x,
    weight,
    span,
    out,
    N,
    K,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    UPCAST: tl.constexpr,
):
    # Row blocks come first in the order of programs: those that share weights run at the same time, so that weights
    # come from memory once and from L2 after that.
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    first, end = tl.load(span), tl.load(span + 1)
    if (tl.program_id(0) * BLOCK_ROWS >= end) | (tl.program_id(0) * BLOCK_ROWS + BLOCK_ROWS <= first):
        return
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    at_work = (rows >= first) & (rows < end)
    x_at = x + rows[:, None].to(tl.int64) * K + k[None, :]
    weight_at = weight + columns[:, None].to(tl.int64) * K + k[None, :]
    total = tl.zeros((BLOCK_ROWS, BLOCK_N), tl.float32)
    for start in range(0, K, BLOCK_K):
        if EVEN_K:
            a = tl.load(x_at, mask=at_work[:, None], other=0.0)
            b = tl.load(weight_at, mask=columns[:, None] < N, other=0.0)
        else:
            there = k[None, :] < K - start
            a = tl.load(x_at, mask=at_work[:, None] & there, other=0.0)
            b = tl.load(weight_at, mask=(columns[:, None] < N) & there, other=0.0)
        if UPCAST:
            a, b = a.to(tl.float32), b.to(tl.float32)
        total = tl.dot(a, b.T, total, input_precision="ieee")
        x_at += BLOCK_K
        weight_at += BLOCK_K
    out_at = out + rows[:, None].to(tl.int64) * N + columns[None, :]
    tl.store(out_at, total.to(out.dtype.element_ty), mask=at_work[:, None] & (columns[None, :] < N))


def linear(x: Tensor, weight: Tensor, span: Tensor) -> Tensor:
    """x weight^T. x: (M, K); weight: (N, K); span: (2,) int32; returns (M, N) like x, undefined outside the span."""
    (rows, k), n = x.shape, weight.shape[0]
    out = torch.empty(rows, n, dtype=x.dtype, device=x.device)
    block_n, num_warps, num_stages = configuration(rows, n, architecture(x))
    _linear[(triton.cdiv(rows, BLOCK_ROWS), triton.cdiv(n, block_n))](
        x,
        weight,
        span,
        out,
        n,
        k,
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_N=block_n,
        BLOCK_K=BLOCK_K,
        EVEN_K=k % BLOCK_K == 0,
        UPCAST=INTERPRETED,
        num_warps=num_warps,
        num_stages=stages_of(x, num_stages),
    )
    return out


class Columns(NamedTuple):
    """How the columns of a product are cut."""

    block: int
    warps: int
    stages: int


def configuration(rows: int, n: int, arch: int) -> Columns:
    """The widest block that still gives most multiprocessors something to do.

    A wide block reads x less often from L2. How wide it is changes which outputs are neighbours and nothing about how
    one is summed: blocks of K and their order are the same for all.
    """
    if shares_little(arch):  # 99 KB of shared memory, and num_stages - 1 stages in it
        enough = triton.cdiv(rows, BLOCK_ROWS) * triton.cdiv(n, 128) >= ENOUGH_PROGRAMS
        return Columns(128, 8, 4) if enough else Columns(64, 4, 4)
    for block in (256, 128):
        if triton.cdiv(rows, BLOCK_ROWS) * triton.cdiv(n, block) >= ENOUGH_PROGRAMS:
            return Columns(block, 8, 4)
    return Columns(64, 4, 4)  # 96 KB: room beside it for a program of the experts, which the dense MLP runs next to
