"""What a step believes, as mean embeddings: probabilities by embedding, into the slots that the next step reads.

The second largest product of a step. The vocabulary is the axis that is summed, so it is split into SPLITS parts, whose
float32 results a second kernel adds in their order: one canvas has 22 blocks of outputs for 132 multiprocessors. The
parts are the same for every pass. Not yet measured on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgbatch.engine.kernels.launch import INTERPRETED, architecture, shares_little
from dgbatch.engine.kernels.rounding import rounded
from dgbatch.engine.kernels.tables import HEAD_COLUMNS, Of, Slots, Tiles

SPLITS = 6  # times 22 blocks is one each for Hopper's 132 multiprocessors
ADDED_ROWS, ADDED_COLUMNS = 16, 256

_SLOT, _ROWS = tl.constexpr(int(Of.SLOT)), tl.constexpr(int(Of.ROWS))


@dataclass(frozen=True)
class Config:
    block_rows: int  # divides a tile
    block_columns: int
    block_k: int  # divides a column tile of the head, so that a row has one factor for it
    warps: int
    stages: int


def config(tile_rows: int, itemsize: int, arch: int) -> Config:
    """Wide blocks: e passes through registers, to become p, once for each block of columns."""
    if itemsize > 2:  # float32, for tests
        return Config(64, 64, 32, 4, 3)
    block_rows = min(128, tile_rows & -tile_rows)
    if shares_little(arch):  # 99 KB of shared memory
        return Config(block_rows, 128, 64, block_rows // 16, 3)
    return Config(block_rows, 256, 64, block_rows // 16, 4)


def soft_rows(e: Tensor, factors: Tensor, embedding: Tensor, scale: float, slots: Slots, tiles: Tiles) -> None:
    """As reference.sampling.soft_rows. e: (N, V); factors: (N, W) float32; embedding: (V, H)."""
    (rows, vocab), (hidden, tile_rows) = e.shape, (embedding.shape[1], slots.canvas.shape[1])
    chosen = config(tile_rows, e.element_size(), architecture(e))
    parts = torch.empty(SPLITS, rows, hidden, dtype=torch.float32, device=e.device)
    columns = triton.cdiv(hidden, chosen.block_columns)
    _soft_parts[(rows // chosen.block_rows * columns * SPLITS,)](
        e, factors, embedding, tiles.canvases, parts, rows, vocab, hidden, factors.shape[1], columns,
        BLOCK_ROWS=chosen.block_rows, BLOCK_COLUMNS=chosen.block_columns, BLOCK_K=chosen.block_k, TOKENS=HEAD_COLUMNS,
        SPLITS=SPLITS, EVEN_H=hidden % chosen.block_columns == 0, EVEN_V=vocab % HEAD_COLUMNS == 0, UPCAST=INTERPRETED,
        num_warps=chosen.warps, num_stages=chosen.stages,
    )  # fmt: skip
    _add_parts[(rows // ADDED_ROWS, triton.cdiv(hidden, ADDED_COLUMNS))](
        parts, tiles.table, tiles.canvases, slots.soft, rows, hidden, scale,
        TILE_ROWS=tile_rows, OF=tiles.table.shape[1], BLOCK_ROWS=ADDED_ROWS, BLOCK_COLUMNS=ADDED_COLUMNS, SPLITS=SPLITS,
        UPCAST=INTERPRETED, num_warps=4, num_stages=1,
    )  # fmt: skip


@triton.jit
def _soft_parts(
    e, factors, embedding, canvases, parts, N, V, H, W, columns,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr, TOKENS: tl.constexpr,
    SPLITS: tl.constexpr, EVEN_H: tl.constexpr, EVEN_V: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    # Blocks of rows at work go first, then those of columns: they read the same tokens of e and embedding side by side.
    blocks = (tl.load(canvases + 1) - tl.load(canvases)) // BLOCK_ROWS
    if tl.program_id(0) >= blocks * columns * SPLITS:
        return
    first_row = tl.program_id(0) % blocks * BLOCK_ROWS
    first_column = tl.program_id(0) // blocks % columns * BLOCK_COLUMNS
    split = tl.program_id(0) // blocks // columns
    share = (W + SPLITS - 1) // SPLITS * TOKENS
    row, token, column = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_COLUMNS)
    real = column[None, :] < H - first_column
    # where a block begins needs 64 bits, what lies inside of it 32
    e_at = e + first_row.to(tl.int64) * V + split * share + (row[:, None] * V + token[None, :])
    embedding_at = embedding + (split * share).to(tl.int64) * H + first_column + (token[:, None] * H + column[None, :])
    factors_at = factors + first_row.to(tl.int64) * W + row * W
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    for start in range(split * share, tl.minimum((split + 1) * share, V), BLOCK_K):
        if EVEN_V:
            a = tl.load(e_at)
            b = tl.load(embedding_at) if EVEN_H else tl.load(embedding_at, mask=real, other=0.0)
        else:
            there = token < V - start
            a = tl.load(e_at, mask=there[None, :], other=0.0)
            b = tl.load(embedding_at, mask=there[:, None] & real, other=0.0)
        p = a.to(tl.float32) * tl.load(factors_at + start // TOKENS)[:, None]
        p = rounded(p, e.dtype.element_ty, UPCAST)
        if UPCAST:
            p, b = p.to(tl.float32), b.to(tl.float32)
        total = tl.dot(p, b, total, input_precision="ieee")
        e_at += BLOCK_K
        embedding_at += BLOCK_K * H
    part = parts + (split * N + first_row).to(tl.int64) * H + first_column
    offset = row[:, None] * H + column[None, :]
    if EVEN_H:
        tl.store(part + offset, total)
    else:
        tl.store(part + offset, total, mask=real)


@triton.jit
def _add_parts(
    parts, table, canvases, soft, N, H, scale,
    TILE_ROWS: tl.constexpr, OF: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    SPLITS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    first, end = tl.load(canvases), tl.load(canvases + 1)
    begin = tl.program_id(0) * BLOCK_ROWS
    if begin >= end - first:
        return
    tile = (first + begin) // TILE_ROWS
    slot, rows = tl.load(table + tile * OF + _SLOT), tl.load(table + tile * OF + _ROWS)
    row = begin % TILE_ROWS + tl.arange(0, BLOCK_ROWS)  # of its tile
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    real = (row < rows)[:, None] & (column < H)[None, :]
    part_at = parts + (begin + tl.arange(0, BLOCK_ROWS)).to(tl.int64)[:, None] * H + column[None, :]
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    for split in range(SPLITS):
        total += tl.load(part_at + (split * N).to(tl.int64) * H, mask=real, other=0.0)
    dtype: tl.constexpr = soft.dtype.element_ty
    soft_at = soft + (slot * TILE_ROWS + row).to(tl.int64)[:, None] * H + column[None, :]
    mean = rounded(total, dtype, UPCAST).to(tl.float32)
    tl.store(soft_at, rounded(mean * scale, dtype, UPCAST), mask=real)
