"""The second product of every expert with the rows that chose it, back to where the rows came from.

Like experts_up, but a stream of only 11 blocks of K: programs are short, so two or more of a multiprocessor must hide
one another's beginning and end. What a token's experts say is added up later, in one order (combine). Not yet
measured on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgbatch.engine.kernels.experts_up import BLOCK_K, token_tiles
from dgbatch.engine.kernels.launch import INTERPRETED, architecture, stages_of

BLOCK_H = 128  # as many rows of weights as experts_up has: 2816 is 22 of them


@triton.jit
def _down_tile(
    inner,
    down,  # of this expert
    place_at,  # places of this tile
    scale,  # of this expert
    outer,
    left,  # tokens of this tile that are there
    H,
    I,  # noqa: E741
    BLOCK_H: tl.constexpr,
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
    column = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    k = tl.arange(0, BLOCK_K)
    down_at = column[:, None] * I + k[None, :]
    inner_at = place[:, None] * I + k[None, :]
    total = tl.zeros((BLOCK_H, TOKENS), tl.float32)
    for start in tl.range(0, I, BLOCK_K, num_stages=STAGES):
        if EVEN_K:
            a = tl.load(down + start + down_at, mask=column[:, None] < H, other=0.0)
            b = tl.load(inner + start + inner_at, mask=there[:, None], other=0.0)
        else:
            inside = k[None, :] < I - start
            a = tl.load(down + start + down_at, mask=(column[:, None] < H) & inside, other=0.0)
            b = tl.load(inner + start + inner_at, mask=there[:, None] & inside, other=0.0)
        if UPCAST:
            a, b = a.to(tl.float32), b.to(tl.float32)
        total = tl.dot(a, b.T, total, input_precision="ieee")
    if SCALED:
        total *= tl.load(scale + column, mask=column < H, other=0.0)[:, None]
    outer_at = outer + place[:, None].to(tl.int64) * H + column[None, :]
    tl.store(outer_at, total.to(outer.dtype.element_ty).T, mask=there[:, None] & (column[None, :] < H))


@triton.jit
def _experts_down(
    inner,
    down,
    counts,
    places,
    scale,
    outer,
    rows,
    H,
    I,  # noqa: E741
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    FEW: tl.constexpr,
    FEW_STAGES: tl.constexpr,
    MANY: tl.constexpr,
    MANY_STAGES: tl.constexpr,
    EVEN_K: tl.constexpr,
    SCALED: tl.constexpr,
    UPCAST: tl.constexpr,
):
    # in the order of experts_up: programs that share weights are neighbours
    expert = tl.program_id(2).to(tl.int64)
    count = tl.load(counts + expert)
    if tl.program_id(0) * MANY >= count:
        return
    matrix = down + expert * (H * I)
    own = scale + expert * H
    # Nothing moves out of this loop: what both branches prepare would hold registers and spill.
    for start in tl.range(tl.program_id(0) * MANY, count, tl.num_programs(0) * MANY, disable_licm=True):
        at = places + expert * rows + start
        left = count - start
        if left <= FEW:
            _down_tile(
                inner, matrix, at, own, outer, left, H, I,
                BLOCK_H, BLOCK_K, FEW, FEW_STAGES, EVEN_K, SCALED, UPCAST,
            )  # fmt: skip
        else:
            _down_tile(
                inner, matrix, at, own, outer, left, H, I,
                BLOCK_H, BLOCK_K, MANY, MANY_STAGES, EVEN_K, SCALED, UPCAST,
            )  # fmt: skip


def experts_down(inner: Tensor, down: Tensor, counts: Tensor, places: Tensor, scale: Tensor | None = None) -> Tensor:
    """inner down_e^T of every row of `inner`, e being the expert it belongs to.

    inner: (M k, I) from experts_up; down: (E, H, I); counts (E,), places (E, M): int32 from group_rows
    scale: (E, H) float32 of down's rows, or None for ones
    returns (M k, H) like inner, undefined where no expert has the row
    """
    (experts, hidden, width), rows = down.shape, places.shape[1]
    outer = torch.empty(inner.shape[0], hidden, dtype=inner.dtype, device=inner.device)
    tokens = token_tiles(inner.shape[0] // experts, architecture(inner))
    _experts_down[(tokens.turns, triton.cdiv(hidden, BLOCK_H), experts)](
        inner,
        down,
        counts,
        places,
        counts if scale is None else scale,
        outer,
        rows,
        hidden,
        width,
        BLOCK_H=BLOCK_H,
        BLOCK_K=BLOCK_K,
        FEW=tokens.few,
        FEW_STAGES=stages_of(inner, tokens.few_stages),
        MANY=tokens.many,
        MANY_STAGES=stages_of(inner, tokens.many_stages),
        EVEN_K=width % BLOCK_K == 0,
        SCALED=scale is not None,
        UPCAST=INTERPRETED,
        num_warps=tokens.num_warps,
        maxnreg=tokens.registers,
        num_stages=1,
    )
    return outer
