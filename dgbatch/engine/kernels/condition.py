"""What goes into the first layer: canvases with the self-conditioning branch and a norm without weight.

x = rms_norm(embedded + branch) of canvases, rms_norm(embedded) before their first step, embedded of clean text
h = rms_norm(x) * weight, the first layer's norm before attention
One program per row.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from dgbatch.engine.kernels.columns import CANVAS, FIRST, WIDTH
from dgbatch.engine.kernels.launch import INTERPRETED
from dgbatch.engine.kernels.norm import block_of, unit
from dgbatch.engine.kernels.rounding import rounded
from dgbatch.engine.kernels.tables import Tiles


@triton.jit
def _condition(
    embedded,
    branch,
    table,
    span,
    weight,
    x,
    h,
    eps,
    TILE_ROWS: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    UPCAST: tl.constexpr,
):
    row = tl.program_id(0)
    if (row < tl.load(span)) | (row >= tl.load(span + 1)):
        return
    tile = table + row // TILE_ROWS * WIDTH
    of_canvas = tl.load(tile + CANVAS) != 0
    known = of_canvas & (tl.load(tile + FIRST) == 0)
    column = tl.arange(0, BLOCK)
    inside = column < HIDDEN
    dtype: tl.constexpr = x.dtype.element_ty
    at = row.to(tl.int64) * HIDDEN + column
    own = tl.load(embedded + at, mask=inside, other=0.0).to(tl.float32)
    more = tl.load(branch + at, mask=inside & known, other=0.0).to(tl.float32)
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    mixed = rounded(own + more, dtype, UPCAST).to(tl.float32)
    out = tl.where(of_canvas, rounded(unit(mixed, HIDDEN, eps), dtype, UPCAST).to(tl.float32), own)
    tl.store(x + at, out.to(dtype), mask=inside)
    tl.store(h + at, rounded(unit(out, HIDDEN, eps) * scale, dtype, UPCAST), mask=inside)


def condition(embedded: Tensor, branch: Tensor, tiles: Tiles, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """embedded, branch: (M, H); weight: (H,); returns x, h like embedded. As reference/rows.py."""
    rows, hidden = embedded.shape
    x, h = embedded.new_empty(rows, hidden), embedded.new_empty(rows, hidden)
    block, warps = block_of(hidden)
    _condition[(rows,)](
        embedded,
        branch,
        tiles.table,
        tiles.everyone,
        weight,
        x,
        h,
        eps,
        TILE_ROWS=rows // len(tiles.table),
        HIDDEN=hidden,
        BLOCK=block,
        UPCAST=INTERPRETED,
        num_warps=warps,
        num_stages=1,
    )
    return x, h
