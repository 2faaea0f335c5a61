"""Tiles look at pages: softmax(q k^T) v with scale 1, for canvases and for chunks of clean text.

All query heads of one KV head ask together: a row of a block is (row of the tile, head of the group), so keys are read
once for them. A program takes one block of rows, one KV head and one of SPLITS parts of the keys; its online softmax
(Milakov and Gimelshein, 2018; Dao, FlashAttention, 2022) leaves a maximum, a sum and an unscaled output in float32,
and a second kernel adds the parts in their order. What a part is follows from the tile's own geometry, never from the
rest of the pass, so a tile's numbers do not depend on its company.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgbatch.engine.kernels.launch import HOPPER, INTERPRETED, architecture, shares_little
from dgbatch.engine.kernels.tables import Number, Of, Slots, Tiles

# One canvas has 32 blocks of rows and heads on sliding layers and 64 on full ones, Hopper 132 multiprocessors. More
# parts would cost many canvases more than they give to one: each is written and read once in float32.
SPLITS = 2

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


def config(head_dim: int, itemsize: int, packed_rows: int, arch: int) -> Config:
    """Block sizes of a layer: the same for every pass. packed_rows: rows of a tile times heads of a group.

    What bounds them: float32 outputs in registers (block_rows * head_dim / threads of them, 128 at most of 255), shared
    memory for the rows and `stages` blocks of keys and values (227 KB; 99 KB on RTX), and the tensor cores, which on
    Hopper wait for shared memory below 64 keys. 128 rows, where they fit, read a key from L2 half as often as 64.
    """
    small = shares_little(arch)
    if head_dim > 256:
        chosen = Config(32, 16, 4, 2) if small or itemsize > 2 else Config(64, 32, 8, 2)
    elif small or itemsize > 2:
        chosen = Config(64, 32, 8, 2)
    elif arch == HOPPER:
        chosen = Config(128, 64, 8, 2)
    else:
        chosen = Config(128, 32, 8, 3)  # 64 keys spill
    rows = chosen.block_rows
    while packed_rows % rows:
        rows //= 2
    return replace(chosen, block_rows=rows)


def attend(q: Tensor, slots: Slots, tiles: Tiles, pool: Tensor, sliding: bool, window: int, span: Tensor) -> Tensor:
    """As reference.looking.attend.

    q: (M, heads, head_dim); pool: (P + S, 2, kv_heads, C, head_dim); span: (2,) int32; returns (M, heads * head_dim)
    """
    rows, heads, size = q.shape
    kv_heads, page_tokens = pool.shape[2:4]
    capacity, tile_rows = len(tiles.table), rows // len(tiles.table)
    packed_rows = tile_rows * heads // kv_heads
    chosen = config(size, q.element_size(), packed_rows, architecture(q))
    out = torch.empty(rows, heads * size, dtype=q.dtype, device=q.device)
    parts = torch.empty(SPLITS, rows * heads, size, dtype=torch.float32, device=q.device)
    maxima = torch.empty(SPLITS, rows * heads, dtype=torch.float32, device=q.device)
    sums = torch.empty_like(maxima)
    block_size = max(16, triton.next_power_of_2(size))  # a tensor-core product sums 16 terms at least
    # blocks of rows go first: those that are at work side by side read the same keys, from L2
    grid = (packed_rows // chosen.block_rows, kv_heads * SPLITS, capacity)
    _attend[grid](
        q, pool, slots.pages, slots.numbers, tiles.table, span, parts, maxima, sums,
        window if sliding else 0, len(slots.numbers), slots.pages.shape[2], len(pool) - len(slots.numbers),
        TILE_ROWS=tile_rows, HEADS=heads, KV_HEADS=kv_heads, SIZE=size, BLOCK_SIZE=block_size, PAGE_TOKENS=page_tokens,
        OF=tiles.table.shape[1], NUMBERS=slots.numbers.shape[1], BLOCK_ROWS=chosen.block_rows,
        BLOCK_KEYS=chosen.block_keys, SPLITS=SPLITS, SLIDING=sliding, UPCAST=INTERPRETED,
        num_warps=chosen.warps, num_stages=chosen.stages,
    )  # fmt: skip
    merged_rows = min(64, 4096 // block_size)  # 32 floats a thread
    _merge[(rows * heads // merged_rows,)](
        parts, maxima, sums, span, out, rows * heads,
        TILE_ROWS=tile_rows, HEADS=heads, KV_HEADS=kv_heads, SIZE=size, BLOCK_SIZE=block_size, BLOCK_ROWS=merged_rows,
        SPLITS=SPLITS, num_warps=4, num_stages=1,
    )  # fmt: skip
    return out


# one program for any number of slots and pages
@triton.jit(do_not_specialize=["window", "slots", "most_chunks", "canvas_pages"])
def _attend(
    q, pool, pages, numbers, table, span, parts, maxima, sums,
    window, slots, most_chunks, canvas_pages,
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
    row = (packed + tl.arange(0, BLOCK_ROWS)) // GROUP
    low, high = _sees(row, start, rows, canvas, window, SLIDING)
    first_low, first_high = _sees(first, start, rows, canvas, window, SLIDING)
    last_low, last_high = _sees(last, start, rows, canvas, window, SLIDING)

    # Blocks of keys are counted through the pages of the prompt, of which the last may be short, and on through those
    # of settled canvases and of the tile itself: one flat loop, no block of which is empty.
    prompt_pages = (prompt + PAGE_TOKENS - 1) // PAGE_TOKENS
    prompt_blocks = prompt // PAGE_TOKENS * BLOCKS + (prompt % PAGE_TOKENS + BLOCK_KEYS - 1) // BLOCK_KEYS
    begin = _block_at(first_low, prompt, prompt_blocks, PAGE_TOKENS, BLOCK_KEYS, BLOCKS)
    end = _block_at(last_high - 1, prompt, prompt_blocks, PAGE_TOKENS, BLOCK_KEYS, BLOCKS) + 1
    share = (end - begin + SPLITS - 1) // SPLITS
    begin += split * share
    end = tl.minimum(begin + share, end)

    # Parts lie as their programs are numbered, so that no register holds an address through the loop.
    kept = ((split.to(tl.int64) * tl.num_programs(2) + tile) * KV_HEADS + head) * (TILE_ROWS * GROUP) + packed
    within = tl.arange(0, BLOCK_ROWS)
    if begin >= end:
        tl.store(maxima + kept + within, tl.full((BLOCK_ROWS,), _NEVER, tl.float32))
        tl.store(sums + kept + within, tl.zeros((BLOCK_ROWS,), tl.float32))
        return

    column, key = tl.arange(0, BLOCK_SIZE), tl.arange(0, BLOCK_KEYS)
    asked = (tile * TILE_ROWS + row) * HEADS + head * GROUP + (packed + within) % GROUP
    asking = tl.load(q + asked.to(tl.int64)[:, None] * SIZE + column[None, :], mask=_fits(column, SIZE), other=0.0)
    if UPCAST:
        asking = asking.to(tl.float32)
    table_row = pages + (SLIDING * slots + slot) * most_chunks
    own = canvas_pages + slot
    offset = key[:, None] * SIZE + column[None, :]
    top = tl.full((BLOCK_ROWS,), _NEVER, tl.float32)
    total = tl.zeros((BLOCK_ROWS,), tl.float32)
    out = tl.zeros((BLOCK_ROWS, BLOCK_SIZE), tl.float32)
    # The page of a block is looked up while the block before it is at work: an address that waits for a load in its own
    # turn of the loop would cost the compiler one of its stages.
    page = _page(begin, table_row, prompt_blocks, prompt_pages, chunk, canvas, own, BLOCKS)
    for block in range(begin, end):
        settled = block >= prompt_blocks
        since = block - tl.where(settled, prompt_blocks, 0)
        inside = since % BLOCKS * BLOCK_KEYS  # first token of the block in its page
        position = tl.where(settled, prompt, 0) + since // BLOCKS * PAGE_TOKENS + inside
        there = tl.minimum(PAGE_TOKENS - inside, tl.where(settled, start + rows, prompt) - position)
        keys = pool + ((page.to(tl.int64) * 2 * KV_HEADS + head) * PAGE_TOKENS + inside) * SIZE
        values = keys + KV_HEADS * PAGE_TOKENS * SIZE
        page = _page(block + 1, table_row, prompt_blocks, prompt_pages, chunk, canvas, own, BLOCKS)
        real = (key < there)[:, None] & _fits(column, SIZE)
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

    tl.store(maxima + kept + within, top)
    tl.store(sums + kept + within, total)
    tl.store(parts + kept * SIZE + (within[:, None] * SIZE + column[None, :]), out, mask=_fits(column, SIZE))


@triton.jit
def _fits(column, SIZE: tl.constexpr):
    """Head sizes of the real model are powers of two: no mask there."""
    return tl.full((1, 1), True, tl.int1) if column.shape[0] == SIZE else (column < SIZE)[None, :]


@triton.jit
def _page(block, table_row, prompt_blocks, prompt_pages, chunk, canvas, own, BLOCKS: tl.constexpr):
    """Page of a block of keys; past the tile's own page nothing is looked up."""
    settled = block >= prompt_blocks
    number = (block - tl.where(settled, prompt_blocks, 0)) // BLOCKS + tl.where(settled, prompt_pages, 0)
    kept = (number < chunk) | ((number == chunk) & (canvas == 0))
    return tl.where(kept, tl.load(table_row + number, mask=kept, other=0), own)


@triton.jit
def _sees(row, start, rows, canvas, window, SLIDING: tl.constexpr):
    at = start + tl.minimum(row, rows - 1)
    high = tl.where(canvas, start + rows, at + 1)
    low = tl.where(canvas, start, at) - (window - 1) if SLIDING else at * 0
    return tl.maximum(low, 0), high


@triton.jit
def _block_at(
    position, prompt, prompt_blocks, PAGE_TOKENS: tl.constexpr, BLOCK_KEYS: tl.constexpr, BLOCKS: tl.constexpr
):
    settled = position >= prompt
    since = position - tl.where(settled, prompt, 0)
    before = tl.where(settled, prompt_blocks, 0)
    return before + since // PAGE_TOKENS * BLOCKS + since % PAGE_TOKENS // BLOCK_KEYS


@triton.jit
def _merge(
    parts, maxima, sums, span, out, all_rows,
    TILE_ROWS: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, SIZE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """all_rows: those of a part, each of one head."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    first = tl.program_id(0) * BLOCK_ROWS
    tile, head = first // (TILE_ROWS * HEADS), first // (TILE_ROWS * GROUP) % KV_HEADS
    packed = first % (TILE_ROWS * GROUP) + tl.arange(0, BLOCK_ROWS)
    row = tile * TILE_ROWS + packed // GROUP
    if (tile * TILE_ROWS + TILE_ROWS <= tl.load(span)) | (tile * TILE_ROWS >= tl.load(span + 1)):
        return

    within, column = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_SIZE)
    top = tl.full((BLOCK_ROWS,), _NEVER, tl.float32)
    for split in tl.static_range(SPLITS):
        top = tl.maximum(top, tl.load(maxima + split * all_rows + first + within))
    total = tl.zeros((BLOCK_ROWS,), tl.float32)
    whole = tl.zeros((BLOCK_ROWS, BLOCK_SIZE), tl.float32)
    for split in tl.static_range(SPLITS):
        kept = (split * all_rows + first).to(tl.int64)
        own = tl.load(maxima + kept + within)
        weight = tl.exp2(own - top)  # 0 for a part that saw nothing, of which nothing was written either
        real = (own > _NEVER)[:, None] & _fits(column, SIZE)
        part = tl.load(parts + kept * SIZE + (within[:, None] * SIZE + column[None, :]), mask=real, other=0.0)
        total += weight * tl.load(sums + kept + within)
        whole += weight[:, None] * part
    merged = (whole / total[:, None]).to(out.dtype.element_ty)
    place = (row * HEADS + head * GROUP + packed % GROUP).to(tl.int64)
    tl.store(out + place[:, None] * SIZE + column[None, :], merged, mask=_fits(column, SIZE))
