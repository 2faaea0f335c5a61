"""Tiles look at pages: softmax(q k^T) v with scale 1, for canvases and for chunks of clean text.

All query heads of one KV head ask together: a row of a block is (row of the tile, head of the group), so keys are read
once for them. A program takes one block of rows, one KV head and one of SPLITS parts of the keys; its online softmax
(Milakov and Gimelshein, 2018; Dao, FlashAttention, 2022) leaves a maximum, a sum and an unscaled output in float32,
and a second kernel adds the parts in their order. What a part is follows from the tile's own geometry, never from the
rest of the pass, so a tile's numbers do not depend on its company.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgbatch.engine.kernels.launch import INTERPRETED, architecture
from dgbatch.engine.kernels.tables import Number, Of, Slots, Tiles

SPLITS = 2  # one canvas gives 64 blocks of rows and heads, on sliding layers and on full ones: half of Hopper's 132 SMs
MERGED_ROWS = 8

_SLOT, _CANVAS, _START = tl.constexpr(int(Of.SLOT)), tl.constexpr(int(Of.CANVAS)), tl.constexpr(int(Of.START))
_ROWS, _CHUNK, _PROMPT = tl.constexpr(int(Of.ROWS)), tl.constexpr(int(Of.CHUNK)), tl.constexpr(int(Number.PROMPT))
_LOG2E = tl.constexpr(1.4426950408889634)
_NEVER = tl.constexpr(float("-inf"))


@dataclass(frozen=True)
class Config:
    block_rows: int
    block_keys: int
    warps: int
    stages: int


def config(head_dim: int, itemsize: int, arch: int) -> Config:
    """The same for every pass. 64 x 512 floats of output need 8 warps: 4 of them spill."""
    if head_dim > 256:
        return Config(64, 32, 8, 2)
    return Config(64, 64, 4, 2)


def attend(q: Tensor, slots: Slots, tiles: Tiles, pool: Tensor, sliding: bool, window: int, span: Tensor) -> Tensor:
    """As reference.looking.attend.

    q: (M, heads, head_dim); pool: (P + S, 2, kv_heads, C, head_dim); span: (2,) int32; returns (M, heads * head_dim)
    """
    rows, heads, size = q.shape
    kv_heads, page_tokens = pool.shape[2:4]
    capacity, tile_rows = len(tiles.table), rows // len(tiles.table)
    chosen = config(size, q.element_size(), architecture(q))
    out = torch.empty(rows, heads * size, dtype=q.dtype, device=q.device)
    parts = torch.empty(SPLITS, rows * heads, size, dtype=torch.float32, device=q.device)
    maxima = torch.empty(SPLITS, rows * heads, dtype=torch.float32, device=q.device)
    sums = torch.empty_like(maxima)
    block_size = max(16, triton.next_power_of_2(size))  # a tensor-core product sums 16 terms at least
    # blocks of rows go first: those that are at work side by side read the same keys, from L2
    grid = (tile_rows * heads // kv_heads // chosen.block_rows, kv_heads * SPLITS, capacity)
    _attend[grid](
        q, pool, slots.pages, slots.numbers, tiles.table, span, parts, maxima, sums,
        window if sliding else 0, len(slots.numbers), slots.pages.shape[2], len(pool) - len(slots.numbers), rows,
        TILE_ROWS=tile_rows, HEADS=heads, KV_HEADS=kv_heads, SIZE=size, BLOCK_SIZE=block_size, PAGE_TOKENS=page_tokens,
        OF=tiles.table.shape[1], NUMBERS=slots.numbers.shape[1], BLOCK_ROWS=chosen.block_rows,
        BLOCK_KEYS=chosen.block_keys, SPLITS=SPLITS, SLIDING=sliding, UPCAST=INTERPRETED,
        num_warps=chosen.warps, num_stages=chosen.stages,
    )  # fmt: skip
    _merge[(triton.cdiv(rows * heads, MERGED_ROWS),)](
        parts, maxima, sums, span, out, rows * heads,
        HEADS=heads, SIZE=size, BLOCK_SIZE=block_size, BLOCK_ROWS=MERGED_ROWS, SPLITS=SPLITS, num_warps=4, num_stages=1,
    )  # fmt: skip
    return out


@triton.jit
def _attend(
    q, pool, pages, numbers, table, span, parts, maxima, sums,
    window, slots, most_chunks, canvas_pages, all_rows,
    TILE_ROWS: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, SIZE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    PAGE_TOKENS: tl.constexpr, OF: tl.constexpr, NUMBERS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr, SPLITS: tl.constexpr, SLIDING: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    GROUP: tl.constexpr = HEADS // KV_HEADS
    BLOCKS: tl.constexpr = (PAGE_TOKENS + BLOCK_KEYS - 1) // BLOCK_KEYS  # of keys in a page
    tile, head, split = tl.program_id(2), tl.program_id(1) // SPLITS, tl.program_id(1) % SPLITS
    packed = tl.program_id(0) * BLOCK_ROWS
    first, last = packed // GROUP, (packed + BLOCK_ROWS - 1) // GROUP  # rows of the tile
    if (tile * TILE_ROWS + last < tl.load(span)) | (tile * TILE_ROWS + first >= tl.load(span + 1)):
        return

    slot = tl.load(table + tile * OF + _SLOT)
    canvas = tl.load(table + tile * OF + _CANVAS) == 1
    start = tl.load(table + tile * OF + _START)
    rows = tl.load(table + tile * OF + _ROWS)
    chunk = tl.load(table + tile * OF + _CHUNK)
    prompt = tl.load(numbers + slot * NUMBERS + _PROMPT)

    # the positions [low, high) that a row sees; padding sees what the last row sees, so that it stays finite
    one = packed + tl.arange(0, BLOCK_ROWS)
    low, high = _sees(one // GROUP, start, rows, canvas, window, SLIDING)
    first_low, first_high = _sees(first, start, rows, canvas, window, SLIDING)
    last_low, last_high = _sees(last, start, rows, canvas, window, SLIDING)

    # Blocks of keys are counted through the pages of the prompt, of which the last may be short, and on through those
    # of settled canvases and of the tile itself: one flat loop, no block of which is empty.
    prompt_pages = (prompt + PAGE_TOKENS - 1) // PAGE_TOKENS
    prompt_blocks = prompt_pages * BLOCKS
    if prompt > 0:
        prompt_blocks = _block(prompt - 1, 0, PAGE_TOKENS, BLOCK_KEYS, BLOCKS) + 1
    begin = _block_at(first_low, prompt, prompt_blocks, PAGE_TOKENS, BLOCK_KEYS, BLOCKS)
    end = _block_at(last_high - 1, prompt, prompt_blocks, PAGE_TOKENS, BLOCK_KEYS, BLOCKS) + 1
    share = (end - begin + SPLITS - 1) // SPLITS
    begin += split * share
    end = tl.minimum(begin + share, end)

    place = (tile * TILE_ROWS + one // GROUP) * HEADS + head * GROUP + one % GROUP
    kept = split * all_rows * HEADS + place
    if begin >= end:
        tl.store(maxima + kept, tl.full((BLOCK_ROWS,), _NEVER, tl.float32))
        tl.store(sums + kept, tl.zeros((BLOCK_ROWS,), tl.float32))
        return

    column, key = tl.arange(0, BLOCK_SIZE), tl.arange(0, BLOCK_KEYS)
    asking = tl.load(q + place.to(tl.int64)[:, None] * SIZE + column[None, :], mask=column[None, :] < SIZE, other=0.0)
    if UPCAST:
        asking = asking.to(tl.float32)
    table_row = pages + (SLIDING * slots + slot) * most_chunks
    top = tl.full((BLOCK_ROWS,), _NEVER, tl.float32)
    total = tl.zeros((BLOCK_ROWS,), tl.float32)
    out = tl.zeros((BLOCK_ROWS, BLOCK_SIZE), tl.float32)
    for block in range(begin, end):
        settled = block >= prompt_blocks
        within = block - tl.where(settled, prompt_blocks, 0)
        number = within // BLOCKS
        inside = within % BLOCKS * BLOCK_KEYS  # first token of the block in its page
        position = tl.where(settled, prompt, 0) + number * PAGE_TOKENS + inside
        there = tl.minimum(PAGE_TOKENS - inside, tl.where(settled, start + rows, prompt) - position)
        number += tl.where(settled, prompt_pages, 0)
        own_canvas = canvas & (number == chunk)
        page = tl.load(table_row + number, mask=number < most_chunks, other=0)
        page = tl.where(own_canvas, canvas_pages + slot, page)
        keys = pool + (page.to(tl.int64) * 2 * KV_HEADS + head) * (PAGE_TOKENS * SIZE)
        values = keys + KV_HEADS * PAGE_TOKENS * SIZE
        offset = (inside + key)[:, None] * SIZE + column[None, :]
        real = (key < there)[:, None] & (column[None, :] < SIZE)
        k = tl.load(keys + offset, mask=real, other=0.0)
        if UPCAST:
            k = k.to(tl.float32)
        scores = tl.dot(asking, k.T, input_precision="ieee")
        if (position < last_low) | (position + BLOCK_KEYS > first_high) | (there < BLOCK_KEYS):
            at = position + key
            seen = (at[None, :] >= low[:, None]) & (at[None, :] < high[:, None]) & (key < there)[None, :]
            scores = tl.where(seen, scores, _NEVER)
        new_top = tl.maximum(top, tl.max(scores, 1) * _LOG2E)
        reached = tl.where(new_top == _NEVER, 0.0, new_top)
        p = tl.exp2(scores * _LOG2E - reached[:, None])
        fade = tl.exp2(top - reached)
        total = total * fade + tl.sum(p, 1)
        out = out * fade[:, None]
        v = tl.load(values + offset, mask=real, other=0.0)
        if UPCAST:
            v = v.to(tl.float32)
        out = tl.dot(p.to(v.dtype), v, out, input_precision="ieee")
        top = new_top

    tl.store(maxima + kept, top)
    tl.store(sums + kept, total)
    tl.store(parts + kept.to(tl.int64)[:, None] * SIZE + column[None, :], out, mask=column[None, :] < SIZE)


@triton.jit
def _sees(row, start, rows, canvas, window, SLIDING: tl.constexpr):
    at = start + tl.minimum(row, rows - 1)
    high = tl.where(canvas, start + rows, at + 1)
    low = tl.where(canvas, start, at) - (window - 1) if SLIDING else at * 0
    return tl.maximum(low, 0), high


@triton.jit
def _block(position, before, PAGE_TOKENS: tl.constexpr, BLOCK_KEYS: tl.constexpr, BLOCKS: tl.constexpr):
    return before + position // PAGE_TOKENS * BLOCKS + position % PAGE_TOKENS // BLOCK_KEYS


@triton.jit
def _block_at(
    position, prompt, prompt_blocks, PAGE_TOKENS: tl.constexpr, BLOCK_KEYS: tl.constexpr, BLOCKS: tl.constexpr
):
    settled = position >= prompt
    since = position - tl.where(settled, prompt, 0)
    return _block(since, tl.where(settled, prompt_blocks, 0), PAGE_TOKENS, BLOCK_KEYS, BLOCKS)


@triton.jit
def _merge(
    parts, maxima, sums, span, out, all_rows,
    HEADS: tl.constexpr, SIZE: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK_ROWS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Rows are (row, head) here; all_rows counts those."""
    first = tl.program_id(0) * BLOCK_ROWS
    if (first + BLOCK_ROWS <= tl.load(span) * HEADS) | (first >= tl.load(span + 1) * HEADS):
        return
    row, column = first + tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_SIZE)
    there = (row >= tl.load(span) * HEADS) & (row < tl.load(span + 1) * HEADS)
    top = tl.full((BLOCK_ROWS,), _NEVER, tl.float32)
    for split in tl.static_range(SPLITS):
        top = tl.maximum(top, tl.load(maxima + split * all_rows + row, mask=there, other=0.0))
    total = tl.zeros((BLOCK_ROWS,), tl.float32)
    whole = tl.zeros((BLOCK_ROWS, BLOCK_SIZE), tl.float32)
    for split in tl.static_range(SPLITS):
        own = tl.load(maxima + split * all_rows + row, mask=there, other=0.0)
        weight = tl.exp2(own - top)  # 0 for a part that saw nothing, of which nothing was written either
        place = (split * all_rows + row).to(tl.int64)[:, None] * SIZE + column[None, :]
        real = (own > _NEVER)[:, None] & there[:, None] & (column[None, :] < SIZE)
        total += weight * tl.load(sums + split * all_rows + row, mask=there, other=1.0)
        whole += weight[:, None] * tl.load(parts + place, mask=real, other=0.0)
    merged = (whole / total[:, None]).to(out.dtype.element_ty)
    place = row.to(tl.int64)[:, None] * SIZE + column[None, :]
    tl.store(out + place, merged, mask=there[:, None] & (column[None, :] < SIZE))
