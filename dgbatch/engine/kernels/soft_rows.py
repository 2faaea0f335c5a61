"""What a step believes, as mean embeddings: probabilities by embedding, into the slots that the next step reads.

The second largest product of a step. The vocabulary is the axis that is summed, so it is split into SPLITS parts, whose
float32 results a second kernel adds in their order: one canvas has 22 blocks of outputs for 132 multiprocessors. The
parts are the same for every pass. Not yet measured on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgbatch.engine.kernels.head import Config
from dgbatch.engine.kernels.launch import BLACKWELL, INTERPRETED, architecture
from dgbatch.engine.kernels.tables import HEAD_COLUMNS, Of, Slots, Tiles

SPLITS = 6  # times 22 blocks is one each for Hopper's 132 multiprocessors
BLOCK_COLUMNS = 128
ADDED_ROWS, ADDED_COLUMNS = 16, 256

_SLOT, _ROWS = tl.constexpr(int(Of.SLOT)), tl.constexpr(int(Of.ROWS))


def config(tile_rows: int, itemsize: int, arch: int) -> Config:
    """As the head's, less a stage: e passes through registers on its way to the product."""
    most = 64 if itemsize > 2 else 128 if arch > BLACKWELL else 256
    block_rows = min(most, tile_rows & -tile_rows)
    return Config(block_rows, 128 // itemsize, 8 if block_rows > 64 else 4, 3)


def soft_rows(e: Tensor, factors: Tensor, embedding: Tensor, scale: float, slots: Slots, tiles: Tiles) -> None:
    """As reference.sampling.soft_rows. e: (N, V); factors: (N, W) float32; embedding: (V, H)."""
    (rows, vocab), (hidden, tile_rows) = e.shape, (embedding.shape[1], slots.canvas.shape[1])
    chosen = config(tile_rows, e.element_size(), architecture(e))
    parts = torch.empty(SPLITS, rows, hidden, dtype=torch.float32, device=e.device)
    columns = triton.cdiv(hidden, BLOCK_COLUMNS)
    _soft_parts[(rows // chosen.block_rows * columns * SPLITS,)](
        e, factors, embedding, tiles.canvases, parts, rows, vocab, hidden, factors.shape[1], columns,
        BLOCK_ROWS=chosen.block_rows, BLOCK_COLUMNS=BLOCK_COLUMNS, BLOCK_K=chosen.block_k, TOKENS=HEAD_COLUMNS,
        SPLITS=SPLITS, EVEN_H=hidden % BLOCK_COLUMNS == 0, EVEN_V=vocab % HEAD_COLUMNS == 0, UPCAST=INTERPRETED,
        num_warps=chosen.warps, num_stages=chosen.stages,
    )  # fmt: skip
    _add_parts[(rows // ADDED_ROWS, triton.cdiv(hidden, ADDED_COLUMNS))](
        parts, tiles.table, tiles.canvases, slots.soft, rows, hidden, scale,
        TILE_ROWS=tile_rows, OF=tiles.table.shape[1], BLOCK_ROWS=ADDED_ROWS, BLOCK_COLUMNS=ADDED_COLUMNS, SPLITS=SPLITS,
        num_warps=4, num_stages=1,
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
    row = tl.program_id(0) % blocks * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(0) // blocks % columns * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    split = tl.program_id(0) // blocks // columns
    share = (W + SPLITS - 1) // SPLITS * TOKENS
    token = tl.arange(0, BLOCK_K)
    real = column[None, :] < H
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    e_at = e + row.to(tl.int64)[:, None] * V + split * share + token[None, :]
    embedding_at = embedding + (split * share + token).to(tl.int64)[:, None] * H + column[None, :]
    factors_at = factors + row.to(tl.int64) * W
    for start in range(split * share, tl.minimum((split + 1) * share, V), BLOCK_K):
        if EVEN_V:
            a = tl.load(e_at)
            if EVEN_H:
                b = tl.load(embedding_at)
            else:
                b = tl.load(embedding_at, mask=real, other=0.0)
        else:
            there = token < V - start
            a = tl.load(e_at, mask=there[None, :], other=0.0)
            b = tl.load(embedding_at, mask=there[:, None] & real, other=0.0)
        p = (a.to(tl.float32) * tl.load(factors_at + start // TOKENS)[:, None]).to(e.dtype.element_ty)
        if UPCAST:
            p, b = p.to(tl.float32), b.to(tl.float32)
        total = tl.dot(p, b, total, input_precision="ieee")
        e_at += BLOCK_K
        embedding_at += BLOCK_K * H
    part_at = parts + (split * N + row).to(tl.int64)[:, None] * H + column[None, :]
    tl.store(part_at, total, mask=real)


@triton.jit
def _add_parts(
    parts, table, canvases, soft, N, H, scale,
    TILE_ROWS: tl.constexpr, OF: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    SPLITS: tl.constexpr,
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
    tl.store(soft_at, (total.to(dtype).to(tl.float32) * scale).to(dtype), mask=real)
