"""The head: logits of canvas rows, and of each column tile all that sampling needs, with no tensor of logits.

The largest product of a step (378 GFLOP a canvas at the real shape), bound by tensor cores: softcap, temperature and
exponentials happen in the epilogue, in float32, and what leaves is e in the weights' dtype and four numbers for each
row and column tile. Not yet measured on a GPU.
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

_SLOT = tl.constexpr(int(Of.SLOT))
_NEVER = tl.constexpr(float("-inf"))
_LOG2E = tl.constexpr(1.4426950408889634)


@dataclass(frozen=True)
class Config:
    block_rows: int  # divides a tile, so that a program has one slot and one temperature
    block_k: int
    warps: int
    stages: int


def config(tile_rows: int, itemsize: int, arch: int) -> Config:
    """256 rows, a whole canvas, so that one canvas reads the embedding once; their sums fill half of the registers."""
    most = 64 if itemsize > 2 else 128 if shares_little(arch) else 256  # float32 is for tests; RTX has 99 KB to share
    block_rows = min(most, tile_rows & -tile_rows)
    return Config(block_rows, 128 // itemsize, 8 if block_rows > 64 else 4, 3 if shares_little(arch) else 4)


def head(
    h: Tensor, embedding: Tensor, slots: Slots, tiles: Tiles, cap: float, canvases: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As reference.sampling.head.

    h: (M, H); embedding: (V, H)
    returns e (N, V) like h; totals, moments, maxima (N, W) float32; argmaxima (N, W) int32
    """
    (vocab, hidden), tile_rows = embedding.shape, slots.canvas.shape[1]
    rows, columns = canvases * tile_rows, triton.cdiv(vocab, HEAD_COLUMNS)
    chosen = config(tile_rows, h.element_size(), architecture(h))
    e = torch.empty(rows, vocab, dtype=h.dtype, device=h.device)
    totals, moments, maxima = (torch.empty(rows, columns, device=h.device) for _ in range(3))
    argmaxima = torch.empty(rows, columns, dtype=torch.int32, device=h.device)
    _head[(rows // chosen.block_rows * columns,)](
        h, embedding, slots.allowed, tiles.table, tiles.temperature, tiles.canvases,
        e, totals, moments, maxima, argmaxima, vocab, hidden, columns, cap,
        TILE_ROWS=tile_rows, OF=tiles.table.shape[1], BLOCK_ROWS=chosen.block_rows, COLUMNS=HEAD_COLUMNS,
        BLOCK_K=chosen.block_k, EVEN_K=hidden % chosen.block_k == 0, EVEN_V=vocab % HEAD_COLUMNS == 0,
        UPCAST=INTERPRETED, num_warps=chosen.warps, num_stages=chosen.stages,
    )  # fmt: skip
    return e, totals, moments, maxima, argmaxima


@triton.jit
def _head(
    h, embedding, allowed, table, temperature, canvases,
    e, totals, moments, maxima, argmaxima, V, K, W, cap,
    TILE_ROWS: tl.constexpr, OF: tl.constexpr, BLOCK_ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr, EVEN_V: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    # Blocks of rows at work go first, whatever was launched for: they read the same part of the embedding side by side.
    first, end = tl.load(canvases), tl.load(canvases + 1)
    blocks = (end - first) // BLOCK_ROWS
    if tl.program_id(0) >= blocks * W:
        return
    block, column_tile = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    tile = (first + block * BLOCK_ROWS) // TILE_ROWS
    slot = tl.load(table + tile * OF + _SLOT)

    # where a block begins needs 64 bits, what lies inside of it 32
    begin, column = block * BLOCK_ROWS, column_tile * COLUMNS
    row, token, k = tl.arange(0, BLOCK_ROWS), tl.arange(0, COLUMNS), tl.arange(0, BLOCK_K)
    real = token[:, None] < V - column
    h_at = h + (first + begin).to(tl.int64) * K + (row[:, None] * K + k[None, :])
    embedding_at = embedding + column.to(tl.int64) * K + (token[:, None] * K + k[None, :])
    product = tl.zeros((BLOCK_ROWS, COLUMNS), tl.float32)
    for start in range(0, K, BLOCK_K):
        if EVEN_K:
            a = tl.load(h_at)
            b = tl.load(embedding_at) if EVEN_V else tl.load(embedding_at, mask=real, other=0.0)
        else:
            there = k[None, :] < K - start
            a = tl.load(h_at, mask=there, other=0.0)
            b = tl.load(embedding_at, mask=real & there, other=0.0)
        if UPCAST:
            a, b = a.to(tl.float32), b.to(tl.float32)
        product = tl.dot(a, b.T, product, input_precision="ieee")
        h_at += BLOCK_K
        embedding_at += BLOCK_K

    # The sums fill half of the registers, so the epilogue goes over them in halves of the columns: twice, for the
    # maximum must be known before the exponentials.
    scale, slope = cap / tl.load(temperature + tile), 2 * _LOG2E / cap
    HALF: tl.constexpr = COLUMNS // 2
    left, right = tl.split(tl.permute(tl.reshape(product, (BLOCK_ROWS, 2, HALF)), (0, 2, 1)))
    may = allowed + slot.to(tl.int64) * V
    dtype: tl.constexpr = e.dtype.element_ty
    left = _capped(left, may, column, V, scale, slope, HALF, dtype, UPCAST)
    right = _capped(right, may, column + HALF, V, scale, slope, HALF, dtype, UPCAST)
    m = tl.maximum(tl.max(left, 1), tl.max(right, 1))
    best = tl.minimum(_where_is(left, m, column, HALF), _where_is(right, m, column + HALF, HALF))
    at = begin.to(tl.int64) * W + column_tile + row * W
    tl.store(maxima + at, m)
    tl.store(argmaxima + at, tl.minimum(best, V - 1))
    m = tl.where(m == _NEVER, 0.0, m)
    e_at = e + begin.to(tl.int64) * V + column + row * V
    total, moment = _written(left, m, e_at, V - column, HALF, EVEN_V, UPCAST)
    more, moment_too = _written(right, m, e_at + HALF, V - column - HALF, HALF, EVEN_V, UPCAST)
    tl.store(totals + at, total + more)
    tl.store(moments + at, moment + moment_too)


@triton.jit
def _capped(
    product, may, first_column, V, scale, slope, COLUMNS: tl.constexpr, dtype: tl.constexpr, UPCAST: tl.constexpr
):
    """cap tanh(x / cap) / temperature; tanh(y) = 1 - 2 / (exp(2y) + 1) saturates at both ends."""
    column = first_column + tl.arange(0, COLUMNS)
    allowed = tl.load(may + column, mask=column < V, other=0) != 0
    logit = rounded(product, dtype, UPCAST).to(tl.float32)
    z = scale - 2 * scale / (tl.exp2(logit * slope) + 1)
    return tl.where(allowed[None, :], z, _NEVER)


@triton.jit
def _where_is(z, m, first_column, COLUMNS: tl.constexpr):
    """The first column that holds the maximum."""
    column = first_column + tl.arange(0, COLUMNS)
    return tl.min(tl.where(z == m[:, None], column[None, :], 2147483647), 1)


@triton.jit
def _written(z, m, e_at, there, COLUMNS: tl.constexpr, EVEN_V: tl.constexpr, UPCAST: tl.constexpr):
    """Stores e; returns the sums of e and of e (z - m)."""
    column = tl.arange(0, COLUMNS)[None, :]
    below = tl.maximum(z - m[:, None], -1e4)  # 0 times it is 0, where 0 times -inf would be none
    exact = tl.exp(below)
    stored = rounded(exact, e_at.dtype.element_ty, UPCAST)
    if EVEN_V:
        tl.store(e_at[:, None] + column, stored)
    else:
        tl.store(e_at[:, None] + column, stored, mask=column < there)
    return tl.sum(exact, 1), tl.sum(exact * below, 1)
