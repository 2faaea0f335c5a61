"""Norms and rotation of heads; keys and values go to their pages, queries are returned.

unit = head / sqrt(mean(head^2) + eps);  q, k = rope(unit * weight);  v = unit of the V heads, of K's where V has none
rope, pairs (i, i + D/2): low * cos - high * sin, high * cos + low * sin
A program is one head of a few rows of one tile: its page is then one number, what it writes of keys or values lies
in one piece, and both halves of a head stand side by side in registers.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from dgbatch.engine.kernels.columns import CANVAS, CHUNK, ROWS, SLOT, WIDTH
from dgbatch.engine.kernels.launch import INTERPRETED
from dgbatch.engine.kernels.rounding import rounded
from dgbatch.engine.kernels.tables import ROW_QUANTUM, Slots, Tiles

PROGRAM_NUMBERS = 4096  # 32 for each thread of 4 warps: two 16-byte loads of either half


@triton.jit
def _place_heads(
    qkv,
    cos,
    sin,
    q_weight,
    k_weight,
    table,
    span,
    pages,
    pool,
    q,
    first_line,
    most_chunks,
    own_pages,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    ALL_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    PAGE_ROWS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    SIZE: tl.constexpr = 2 * HALF
    begin = tl.program_id(0) * BLOCK_ROWS
    head = tl.program_id(1)
    first, end = tl.load(span), tl.load(span + 1)
    if (begin + BLOCK_ROWS <= first) | (begin >= end):
        return
    row = begin + tl.arange(0, BLOCK_ROWS)
    working = (row >= first) & (row < end)
    column = tl.arange(0, BLOCK)
    inside = working[:, None] & (column < HALF)[None, :]
    dtype: tl.constexpr = q.dtype.element_ty
    row = row.to(tl.int64)
    at = qkv + row[:, None] * (ALL_HEADS * SIZE) + head * SIZE + column[None, :]
    low = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
    squares = tl.sum(low * low, 1) + tl.sum(high * high, 1)
    scale = tl.rsqrt(squares * (1.0 / SIZE) + eps)
    low, high = low * scale[:, None], high * scale[:, None]

    tile = table + begin // TILE_ROWS * WIDTH
    of_canvas = tl.load(tile + CANVAS) != 0
    slot = tl.load(tile + SLOT)
    line = pages + (first_line + slot) * most_chunks
    page = tl.load(line + tl.load(tile + CHUNK), mask=of_canvas == 0, other=0)
    page = tl.where(of_canvas, own_pages + slot, page).to(tl.int64)
    number = begin % TILE_ROWS + tl.arange(0, BLOCK_ROWS)
    kept = inside & (number < tl.load(tile + ROWS))[:, None]
    home = pool + page * (2 * KV_HEADS * PAGE_ROWS * SIZE) + number[:, None] * SIZE + column[None, :]
    if head < HEADS + KV_HEADS:
        angle = row[:, None] * HALF + column[None, :]
        c = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
        s = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
        # both weights are read, a few hundred bytes each: a pointer chosen by a branch loses its alignment
        part = column < HALF
        of_q, of_k = part & (head < HEADS), part & (head >= HEADS)
        weight = tl.load(q_weight + column, mask=of_q, other=0.0).to(tl.float32)
        weight += tl.load(k_weight + column, mask=of_k, other=0.0).to(tl.float32)
        a = rounded(low * weight[None, :], dtype, UPCAST).to(tl.float32)
        weight = tl.load(q_weight + HALF + column, mask=of_q, other=0.0).to(tl.float32)
        weight += tl.load(k_weight + HALF + column, mask=of_k, other=0.0).to(tl.float32)
        b = rounded(high * weight[None, :], dtype, UPCAST).to(tl.float32)
        turned_low = rounded(rounded(a * c, dtype, UPCAST).to(tl.float32) - b * s, dtype, UPCAST)
        turned_high = rounded(rounded(b * c, dtype, UPCAST).to(tl.float32) + a * s, dtype, UPCAST)
        if head < HEADS:
            out = q + row[:, None] * (HEADS * SIZE) + head * SIZE + column[None, :]
            tl.store(out, turned_low, mask=inside)
            tl.store(out + HALF, turned_high, mask=inside)
        else:
            key = home + (head - HEADS) * (PAGE_ROWS * SIZE)
            tl.store(key, turned_low, mask=kept)
            tl.store(key + HALF, turned_high, mask=kept)
    if head >= ALL_HEADS - KV_HEADS:
        value = home + (KV_HEADS + head - (ALL_HEADS - KV_HEADS)) * (PAGE_ROWS * SIZE)
        tl.store(value, rounded(low, dtype, UPCAST), mask=kept)
        tl.store(value + HALF, rounded(high, dtype, UPCAST), mask=kept)


def place_heads(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    slots: Slots,
    tiles: Tiles,
    pool: Tensor,
    sliding: bool,
    heads: int,
    eps: float,
) -> Tensor:
    """qkv: (M, (heads + kv_heads [+ kv_heads]) * D); cos, sin: (M, D / 2); q_weight, k_weight: (D,)

    pool: (P + S, 2, kv_heads, C, D), written; returns q: (M, heads, D). As reference/rows.py.
    """
    rows, width = qkv.shape
    kv_heads, page_rows, size = pool.shape[2:]
    seats = len(slots.numbers)
    q = qkv.new_empty(rows, heads, size)
    block = triton.next_power_of_2(size // 2)
    # the same for every number of rows, and a divisor of a tile's, which are a multiple of ROW_QUANTUM
    block_rows = min(ROW_QUANTUM, max(1, PROGRAM_NUMBERS // (2 * block)))
    _place_heads[(triton.cdiv(rows, block_rows), width // size)](
        qkv,
        cos,
        sin,
        q_weight,
        k_weight,
        tiles.table,
        tiles.everyone,
        slots.pages,
        pool,
        q,
        int(sliding) * seats,
        slots.pages.shape[2],
        len(pool) - seats,
        eps,
        HEADS=heads,
        KV_HEADS=kv_heads,
        ALL_HEADS=width // size,
        HALF=size // 2,
        BLOCK=block,
        PAGE_ROWS=page_rows,
        TILE_ROWS=rows // len(tiles.table),
        BLOCK_ROWS=block_rows,
        UPCAST=INTERPRETED,
        num_warps=4,
        num_stages=1,
    )
    return q
