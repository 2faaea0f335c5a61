"""The end of a layer: the experts of a row added up, both branches normed, the residual scaled, and the next norm.

chosen = sum_j weights[row, j] * outer[row * k + j], j ascending: no atomics, one order of additions
mixed = rms_norm(dense) * after_mlp + rms_norm(chosen) * after_experts
x' = (x + rms_norm(mixed) * after_both) * scalar of the row's kind;  h = rms_norm(x') * next_weight
One program per row; all that it reads is asked for before the first of its four sums, which wait for one another.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from dgbatch.engine.kernels.columns import CANVAS, WIDTH
from dgbatch.engine.kernels.launch import INTERPRETED
from dgbatch.engine.kernels.norm import block_of, unit
from dgbatch.engine.kernels.rounding import rounded
from dgbatch.engine.kernels.tables import Tiles


@triton.jit
def _combine(
    x,
    dense,
    outer,
    weights,
    after_mlp,
    after_experts,
    after_both,
    scalars,
    table,
    next_weight,
    span,
    moved,
    h,
    eps,
    CHOSEN: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    UPCAST: tl.constexpr,
):
    row = tl.program_id(0)
    if (row < tl.load(span)) | (row >= tl.load(span + 1)):
        return
    scalar = tl.load(scalars + tl.load(table + row // TILE_ROWS * WIDTH + CANVAS))
    column = tl.arange(0, BLOCK)
    inside = column < HIDDEN
    dtype: tl.constexpr = x.dtype.element_ty
    at = row.to(tl.int64) * HIDDEN + column
    own = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    mixed = tl.load(dense + at, mask=inside, other=0.0).to(tl.float32)
    # asked for here: where they are needed, between two sums, the whole program would wait for each
    of_mlp = tl.load(after_mlp + column, mask=inside, other=0.0)
    of_experts = tl.load(after_experts + column, mask=inside, other=0.0)
    of_both = tl.load(after_both + column, mask=inside, other=0.0)
    following = tl.load(next_weight + column, mask=inside, other=0.0)
    made = outer + row.to(tl.int64) * CHOSEN * HIDDEN + column
    chosen = tl.zeros((BLOCK,), tl.float32)
    for j in tl.static_range(CHOSEN):
        share = tl.load(weights + row * CHOSEN + j)
        chosen += share * tl.load(made + j * HIDDEN, mask=inside, other=0.0).to(tl.float32)
    chosen = rounded(chosen, dtype, UPCAST).to(tl.float32)
    mixed = rounded(unit(mixed, HIDDEN, eps) * of_mlp.to(tl.float32), dtype, UPCAST).to(tl.float32)
    mixed += rounded(unit(chosen, HIDDEN, eps) * of_experts.to(tl.float32), dtype, UPCAST).to(tl.float32)
    mixed = rounded(mixed, dtype, UPCAST).to(tl.float32)
    own += rounded(unit(mixed, HIDDEN, eps) * of_both.to(tl.float32), dtype, UPCAST).to(tl.float32)
    total = rounded(rounded(own, dtype, UPCAST).to(tl.float32) * scalar, dtype, UPCAST)
    tl.store(moved + at, total, mask=inside)
    out = unit(total.to(tl.float32), HIDDEN, eps) * following.to(tl.float32)
    tl.store(h + at, rounded(out, dtype, UPCAST), mask=inside)


def combine(
    x: Tensor,
    dense: Tensor,
    outer: Tensor,
    weights: Tensor,
    after_mlp: Tensor,
    after_experts: Tensor,
    after_both: Tensor,
    scalars: Tensor,
    tiles: Tiles,
    next_weight: Tensor,
    eps: float,
    span: Tensor,
) -> tuple[Tensor, Tensor]:
    """x, dense: (M, H); outer: (M * k, H); weights: (M, k) float32; returns x', h like x. As reference/rows.py."""
    rows, hidden = x.shape
    moved, h = x.new_empty(rows, hidden), x.new_empty(rows, hidden)
    block, warps = block_of(hidden)
    _combine[(rows,)](
        x,
        dense,
        outer,
        weights,
        after_mlp,
        after_experts,
        after_both,
        scalars,
        tiles.table,
        next_weight,
        span,
        moved,
        h,
        eps,
        CHOSEN=weights.shape[1],
        TILE_ROWS=rows // len(tiles.table),
        HIDDEN=hidden,
        BLOCK=block,
        UPCAST=INTERPRETED,
        num_warps=warps,
        num_stages=1,
    )
    return moved, h
