"""Rows of tokens, and what the last step believed of those of a canvas, normed for the self-conditioning MLP.

embedded = embedding[token] * scale;  conditioned = soft / sqrt(mean(soft^2) + eps) * soft_norm
One program per row. Which token a row is, the device looks up: text of a chunk, the canvas of a canvas.
Padding has a different token in each row: rows of one token would all choose the same experts, and wait for them.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from dgbatch.engine.kernels.columns import CANVAS, FIRST, ROWS, SLOT, START, WIDTH
from dgbatch.engine.kernels.launch import INTERPRETED
from dgbatch.engine.kernels.norm import block_of, unit
from dgbatch.engine.kernels.rounding import rounded
from dgbatch.engine.kernels.tables import Slots, Tiles


@triton.jit
def _embed_rows(
    table,
    span,
    text,
    canvas,
    soft,
    embedding,
    soft_norm,
    embedded,
    conditioned,
    positions,
    text_size,
    vocabulary,
    scale,
    eps,
    TILE_ROWS: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    UPCAST: tl.constexpr,
):
    row = tl.program_id(0)
    if (row < tl.load(span)) | (row >= tl.load(span + 1)):
        tl.store(positions + row, 0)  # angles are made of every row's position, so that each has one
        return
    tile = table + row // TILE_ROWS * WIDTH
    number = row % TILE_ROWS
    slot, start = tl.load(tile + SLOT), tl.load(tile + START)
    of_canvas = tl.load(tile + CANVAS) != 0
    there = number < tl.load(tile + ROWS)
    position = start + tl.where(there, number, 0)
    known = of_canvas & there & (tl.load(tile + FIRST) == 0)
    seat = slot.to(tl.int64) * TILE_ROWS + number
    token = tl.load(canvas + seat, mask=there & of_canvas, other=0)
    token += tl.load(text + slot.to(tl.int64) * text_size + position, mask=there & (of_canvas == 0), other=0)
    token = tl.where(there, token, number % vocabulary)
    tl.store(positions + row, position)

    column = tl.arange(0, BLOCK)
    inside = column < HIDDEN
    dtype: tl.constexpr = embedded.dtype.element_ty
    out = row.to(tl.int64) * HIDDEN + column
    own = tl.load(embedding + token.to(tl.int64) * HIDDEN + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(embedded + out, rounded(own * scale, dtype, UPCAST), mask=inside)
    believed = tl.load(soft + seat * HIDDEN + column, mask=inside & known, other=0.0).to(tl.float32)
    weight = tl.load(soft_norm + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(conditioned + out, rounded(unit(believed, HIDDEN, eps) * weight, dtype, UPCAST), mask=inside)


def embed_rows(
    slots: Slots, tiles: Tiles, embedding: Tensor, scale: float, soft_norm: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """embedded, conditioned: (M, H) in embedding's dtype; positions: (M,) int32. As reference/rows.py."""
    hidden, tile_rows = embedding.shape[1], slots.canvas.shape[1]
    rows = len(tiles.table) * tile_rows
    embedded, conditioned = embedding.new_empty(rows, hidden), embedding.new_empty(rows, hidden)
    positions = tiles.table.new_empty(rows)
    block, warps = block_of(hidden)
    _embed_rows[(rows,)](
        tiles.table,
        tiles.everyone,
        slots.text,
        slots.canvas,
        slots.soft,
        embedding,
        soft_norm,
        embedded,
        conditioned,
        positions,
        slots.text.shape[1],
        len(embedding),
        scale,
        eps,
        TILE_ROWS=tile_rows,
        HIDDEN=hidden,
        BLOCK=block,
        UPCAST=INTERPRETED,
        num_warps=warps,
        num_stages=1,
    )
    return embedded, conditioned, positions
