"""What each canvas row believes in sum, and the token that its level draws: by column tile, then inside of one.

A few kilobytes of each row, bound by latency. Not yet measured on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgbatch.engine.kernels.philox import level_of, philox, token_of
from dgbatch.engine.kernels.tables import HEAD_COLUMNS, Number, Of, Slots, Tiles

NUMBERS_AT_ONCE = 2048  # of a program: one row of the real vocabulary, several of a small one

_SLOT, _GREEDY = tl.constexpr(int(Of.SLOT)), tl.constexpr(int(Number.GREEDY))
_CANVAS, _STEP = tl.constexpr(int(Number.CANVAS)), tl.constexpr(int(Number.STEP))
_KEY_LOW, _KEY_HIGH = tl.constexpr(int(Number.KEY_LOW)), tl.constexpr(int(Number.KEY_HIGH))
_NEVER = tl.constexpr(float("-inf"))
_NOWHERE = tl.constexpr(2**31 - 1)


def decide(
    e: Tensor, totals: Tensor, moments: Tensor, maxima: Tensor, argmaxima: Tensor, slots: Slots, tiles: Tiles
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As reference.sampling.decide.

    e: (N, V); totals, moments, maxima (N, W) float32; argmaxima (N, W) int32
    returns entropy (N,) float32; argmax, drawn, fresh (N,) int32; factors (N, W) float32
    """
    rows, columns = totals.shape
    block_columns = triton.next_power_of_2(columns)
    block_rows = max(1, min(64, NUMBERS_AT_ONCE // block_columns))  # divides a tile: a program has one slot
    entropy = torch.empty(rows, device=e.device)
    argmax, drawn, fresh = (torch.empty(rows, dtype=torch.int32, device=e.device) for _ in range(3))
    factors = torch.empty_like(totals)
    _decide[(rows // block_rows,)](
        e, totals, moments, maxima, argmaxima, slots.numbers, tiles.table, tiles.canvases,
        entropy, argmax, drawn, fresh, factors, e.shape[1], columns,
        TILE_ROWS=slots.canvas.shape[1], NUMBERS=slots.numbers.shape[1], OF=tiles.table.shape[1], TOKENS=HEAD_COLUMNS,
        BLOCK_ROWS=block_rows, BLOCK_COLUMNS=block_columns, num_warps=4, num_stages=1,
    )  # fmt: skip
    return entropy, argmax, drawn, fresh, factors


@triton.jit
def _decide(
    e, totals, moments, maxima, argmaxima, numbers, table, canvases,
    entropy, argmax, drawn, fresh, factors, V, W,
    TILE_ROWS: tl.constexpr, NUMBERS: tl.constexpr, OF: tl.constexpr, TOKENS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    first, end = tl.load(canvases), tl.load(canvases + 1)
    begin = tl.program_id(0) * BLOCK_ROWS
    if begin >= end - first:
        return
    slot = tl.load(table + (first + begin) // TILE_ROWS * OF + _SLOT)
    row = begin + tl.arange(0, BLOCK_ROWS)

    # S, H, argmax and the factors, of what each column tile knows
    tile = tl.arange(0, BLOCK_COLUMNS)[None, :]
    at = row.to(tl.int64)[:, None] * W + tile
    real = tile < W
    top = tl.load(maxima + at, mask=real, other=_NEVER)
    m = tl.max(top, 1)[:, None]
    possible = top > _NEVER
    below = tl.where(possible, top - m, 0.0)
    a = tl.where(possible, tl.exp(below), 0.0)
    sums = tl.load(totals + at, mask=real, other=0.0)
    w = sums * a
    total = tl.sum(w, 1)[:, None]
    tl.store(factors + at, a / total, mask=real)
    spread = tl.sum(a * (tl.load(moments + at, mask=real, other=0.0) + below * sums), 1)[:, None]
    nats = tl.maximum(tl.log(total) - spread / total, 0.0)
    best = tl.min(tl.where(possible & (top == m), tl.load(argmaxima + at, mask=real, other=0), _NOWHERE), 1)
    best = tl.minimum(best, V - 1)  # whatever it was made of, it is a token

    # the noise of engine/noise.py
    mine = numbers + slot * NUMBERS
    step, canvas = tl.load(mine + _STEP), tl.load(mine + _CANVAS)
    key_low, key_high = tl.load(mine + _KEY_LOW), tl.load(mine + _KEY_HIGH)
    level = level_of(philox(row % TILE_ROWS, step, canvas, key_low, key_high)[1])
    next_noise = token_of(philox(row % TILE_ROWS, step + 1, canvas, key_low, key_high)[0], V)

    # the tile in which the cumulated probability reaches the level, and how far into it
    cumulated = tl.cumsum(w, 1)
    target = level[:, None] * total
    chosen = _first(cumulated >= target, w > 0, tile)
    picked = tile == chosen[:, None]
    inside = (target - tl.sum(tl.where(picked, cumulated - w, 0.0), 1)[:, None]) / tl.sum(tl.where(picked, w, 0.0), 1)[
        :, None
    ]
    share = tl.minimum(tl.maximum(inside, 0.0), 1.0)
    # the token: of the tile's e, rounded as it is, the first that reaches the same share of their sum
    token = chosen[:, None] * TOKENS + tl.arange(0, TOKENS)[None, :]
    likely = tl.load(e + row.to(tl.int64)[:, None] * V + token, mask=token < V, other=0.0).to(tl.float32)
    target = share * tl.sum(likely, 1)[:, None]
    drawn_token = _first(tl.cumsum(likely, 1) >= target, likely > 0, token)
    greedy = tl.load(mine + _GREEDY) != 0

    tl.store(entropy + row[:, None], nats)
    tl.store(argmax + row, best)
    tl.store(drawn + row, tl.where(greedy, best, drawn_token))
    tl.store(fresh + row, next_noise)


@triton.jit
def _first(reached, possible, number):
    """The first number that is reached and possible; the last possible one where rounding lets none. (rows,)"""
    first = tl.min(tl.where(reached & possible, number, _NOWHERE), 1)
    last = tl.max(tl.where(possible, number, 0), 1)
    return tl.where(first == _NOWHERE, last, first)
