"""The first product of every expert with the rows that chose it, with the gate in its epilogue.

Most of a step is the stream of experts' weights, so everything here serves it: weights are the wide side of the
product and a few tokens the narrow one; a program streams one block of an expert's weights past the expert's tokens;
two programs of a multiprocessor keep 96 to 128 KB of weights under way, of which 26 KB would do if latency were the
only cost. Not yet measured on a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgbatch.engine.kernels.gelu import gate_with_gelu
from dgbatch.engine.kernels.launch import INTERPRETED, architecture, shares_little, stages_of

BLOCK_I = 64  # rows of gate and as many of up; 704 is 11 of them
BLOCK_K = 64  # 128 bytes of a bfloat16 row: one swizzled line of shared memory. Never depends on the number of rows


@triton.jit
def _up_tile(
    x,
    gate_up,  # of this expert
    place_at,  # places of this tile
    scale,  # of this expert
    inner,
    left,  # tokens of this tile that are there
    I,  # noqa: E741
    H,
    CHOSEN: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TOKENS: tl.constexpr,
    STAGES: tl.constexpr,
    EVEN_K: tl.constexpr,
    SCALED: tl.constexpr,
    UPCAST: tl.constexpr,
):
    token = tl.arange(0, TOKENS)
    there = token < left
    place = tl.load(place_at + token, mask=there, other=0)
    # Of every 16 rows of the product 8 are of gate and 8 of up: the same thread has both in its registers.
    row = tl.arange(0, 2 * BLOCK_I)
    own = tl.program_id(1) * BLOCK_I + row // 16 * 8 + row % 8
    half = row // 8 % 2
    k = tl.arange(0, BLOCK_K)
    weight_at = (half * I + own)[:, None] * H + k[None, :]
    x_at = (place // CHOSEN)[:, None] * H + k[None, :]
    both = tl.zeros((2 * BLOCK_I, TOKENS), tl.float32)
    for start in tl.range(0, H, BLOCK_K, num_stages=STAGES):
        if EVEN_K:
            a = tl.load(gate_up + start + weight_at, mask=own[:, None] < I, other=0.0)
            b = tl.load(x + start + x_at, mask=there[:, None], other=0.0)
        else:
            inside = k[None, :] < H - start
            a = tl.load(gate_up + start + weight_at, mask=(own[:, None] < I) & inside, other=0.0)
            b = tl.load(x + start + x_at, mask=there[:, None] & inside, other=0.0)
        if UPCAST:
            a, b = a.to(tl.float32), b.to(tl.float32)
        both = tl.dot(a, b.T, both, input_precision="ieee")
    if SCALED:
        both *= tl.load(scale + half * I + own, mask=own < I, other=0.0)[:, None]
    gate, up = both.reshape(BLOCK_I // 8, 2, 8, TOKENS).permute(0, 2, 3, 1).split()
    gate = gate.reshape(BLOCK_I, TOKENS)
    up = up.reshape(BLOCK_I, TOKENS)
    column = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    value = gate_with_gelu(gate, up, inner.dtype.element_ty)
    inner_at = inner + place[:, None].to(tl.int64) * I + column[None, :]
    tl.store(inner_at, value.T, mask=there[:, None] & (column[None, :] < I))


@triton.jit
def _experts_up(
    x,
    gate_up,
    counts,
    places,
    scale,
    inner,
    rows,
    I,  # noqa: E741
    H,
    CHOSEN: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_K: tl.constexpr,
    FEW: tl.constexpr,
    FEW_STAGES: tl.constexpr,
    MANY: tl.constexpr,
    MANY_STAGES: tl.constexpr,
    EVEN_K: tl.constexpr,
    SCALED: tl.constexpr,
    UPCAST: tl.constexpr,
):
    # Programs that share weights, the turns, are neighbours: they run at the same time and the second reads L2.
    expert = tl.program_id(2).to(tl.int64)
    count = tl.load(counts + expert)
    if tl.program_id(0) * MANY >= count:
        return
    matrix = gate_up + expert * (2 * I * H)
    own = scale + expert * (2 * I)
    # Nothing moves out of this loop: what both branches prepare would hold registers and spill.
    for start in tl.range(tl.program_id(0) * MANY, count, tl.num_programs(0) * MANY, disable_licm=True):
        at = places + expert * rows + start
        left = count - start
        if left <= FEW:
            _up_tile(
                x, matrix, at, own, inner, left, I, H,
                CHOSEN, BLOCK_I, BLOCK_K, FEW, FEW_STAGES, EVEN_K, SCALED, UPCAST,
            )  # fmt: skip
        else:
            _up_tile(
                x, matrix, at, own, inner, left, I, H,
                CHOSEN, BLOCK_I, BLOCK_K, MANY, MANY_STAGES, EVEN_K, SCALED, UPCAST,
            )  # fmt: skip


def experts_up(
    x: Tensor, gate_up: Tensor, counts: Tensor, places: Tensor, chosen: int, scale: Tensor | None = None
) -> Tensor:
    """gelu_tanh(x gate_e^T) * (x up_e^T) of every row and each expert e it chose; rounded as in `gated`.

    x: (M, H); gate_up: (E, 2 I, H), gate rows first; counts (E,), places (E, M): int32 from group_rows
    scale: (E, 2 I) float32 of gate_up's rows, or None for ones
    returns (M k, I) like x: row r * k + j is of row r and the j-th expert it chose; undefined where there is none
    """
    (rows, hidden), (experts, double, _) = x.shape, gate_up.shape
    width = double // 2
    inner = torch.empty(rows * chosen, width, dtype=x.dtype, device=x.device)
    tokens = token_tiles(rows * chosen // experts, architecture(x))
    _experts_up[(tokens.turns, triton.cdiv(width, BLOCK_I), experts)](
        x,
        gate_up,
        counts,
        places,
        counts if scale is None else scale,
        inner,
        rows,
        width,
        hidden,
        CHOSEN=chosen,
        BLOCK_I=BLOCK_I,
        BLOCK_K=BLOCK_K,
        FEW=tokens.few,
        FEW_STAGES=stages_of(x, tokens.few_stages),
        MANY=tokens.many,
        MANY_STAGES=stages_of(x, tokens.many_stages),
        EVEN_K=hidden % BLOCK_K == 0,
        SCALED=scale is not None,
        UPCAST=INTERPRETED,
        num_warps=tokens.num_warps,
        maxnreg=tokens.registers,
        num_stages=1,
    )
    return inner


class TokenTiles(NamedTuple):
    """How an expert's tokens are cut. A token's result is the same in each: K is summed in the same order."""

    few: int  # tokens of the last tile, if no more are left
    few_stages: int
    many: int  # tokens of the others
    many_stages: int
    turns: int  # programs that share the tiles of one expert
    num_warps: int
    registers: int | None  # at most, where two programs would not fit a multiprocessor otherwise


def token_tiles(mean: int, arch: int) -> TokenTiles:
    """For `mean` tokens of an expert, were all experts as likely.

    Weights come from memory once while all tokens of an expert are in one tile, or in tiles of programs that run side
    by side; so a tile of 128 is at hand for an expert that many like, also where 16 are usual. Stages are such that two
    programs fit a multiprocessor (about 100 KB each of 227 KB).
    """
    if shares_little(arch):  # 99 KB of shared memory
        return TokenTiles(32, 3, 64, 3, 1 + mean // 64, 4, None)
    if mean <= 24:  # one canvas: 16 tokens, give or take 4
        return TokenTiles(32, 5, 128, 3, 1, 4, None)
    if mean <= 64:
        return TokenTiles(64, 4, 128, 3, 1, 4, None)
    return TokenTiles(32, 5, 128, 3, 1 + mean // 128, 8, 128)
