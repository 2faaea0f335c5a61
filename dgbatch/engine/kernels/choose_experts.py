"""The router: scores of all experts, their softmax, the likeliest few. Bound by latency; not yet measured on a GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgbatch.engine.kernels.launch import INTERPRETED, architecture, shares_little, stages_of

BLOCK_ROWS = 16  # few, so that one canvas is spread over 16 multiprocessors; each reads all of proj from L2
BLOCK_K = 128


@triton.jit
def _choose_experts(
    unit,
    proj,
    scale,
    per_expert_scale,
    span,
    weights,
    index,
    H,
    root,
    EXPERTS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    CHOSEN: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    UPCAST: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    first, end = tl.load(span), tl.load(span + 1)
    if (tl.program_id(0) * BLOCK_ROWS >= end) | (tl.program_id(0) * BLOCK_ROWS + BLOCK_ROWS <= first):
        return
    dtype = unit.dtype.element_ty
    expert = tl.arange(0, BLOCK_E)
    k = tl.arange(0, BLOCK_K)
    at_work = (rows >= first) & (rows < end)
    unit_at = unit + rows[:, None].to(tl.int64) * H + k[None, :]
    proj_at = proj + expert[:, None] * H + k[None, :]
    # Experts are the wide side of the product: 16 rows would fill a quarter of the narrowest tile.
    scores = tl.zeros((BLOCK_E, BLOCK_ROWS), tl.float32)
    factor = tl.load(scale + k, mask=k < H, other=0.0)
    for start in range(0, H, BLOCK_K):
        if EVEN_K:
            row = tl.load(unit_at, mask=at_work[:, None], other=0.0)
            matrix = tl.load(proj_at, mask=expert[:, None] < EXPERTS, other=0.0)
        else:
            there = k < H - start
            row = tl.load(unit_at, mask=at_work[:, None] & there[None, :], other=0.0)
            matrix = tl.load(proj_at, mask=(expert[:, None] < EXPERTS) & there[None, :], other=0.0)
        # rounded after each factor, as two torch operations do
        scaled = (row.to(tl.float32) * factor.to(tl.float32)[None, :]).to(dtype).to(tl.float32)
        scaled = (scaled * root).to(dtype)
        # Two bytes a thread are too few to be copied ahead by themselves; asked for now, they are there a round later.
        ahead = start + BLOCK_K + k
        factor = tl.load(scale + ahead, mask=ahead < H, other=0.0)
        if UPCAST:
            scaled, matrix = scaled.to(tl.float32), matrix.to(tl.float32)
        scores = tl.dot(matrix, scaled.T, scores, input_precision="ieee")
        unit_at += BLOCK_K
        proj_at += BLOCK_K
    # Score and number in one integer: one reduction a round finds both, and of equal scores the lowest number.
    scores = scores.to(dtype).to(tl.float32)
    scores = tl.where(scores == 0.0, 0.0, scores)  # no negative zero: its bits would come behind those of zero
    bits = scores.to(tl.int32, bitcast=True)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) << 32
    nothing: tl.constexpr = -(2**63)
    keys = tl.where(expert[:, None] < EXPERTS, ordered | (BLOCK_E - 1 - expert)[:, None].to(tl.int64), nothing)
    slot = tl.arange(0, WIDTH)
    tops = tl.zeros((BLOCK_ROWS, WIDTH), tl.int64)
    for j in tl.static_range(CHOSEN):
        top = tl.max(keys, 0)
        tops = tl.where(slot[None, :] == j, top[:, None], tops)
        keys = tl.where(keys == top[None, :], nothing, keys)
    there = slot[None, :] < CHOSEN
    picks = BLOCK_E - 1 - (tops & 0xFFFFFFFF).to(tl.int32)
    bits = (tops >> 32).to(tl.int32)
    scores = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    scores = tl.where(there, scores, -float("inf"))
    share = tl.exp(scores - tl.max(scores, 1)[:, None])
    factors = tl.load(per_expert_scale + picks, mask=there & (picks < EXPERTS), other=0.0).to(tl.float32)
    share = share / tl.sum(share, 1)[:, None] * factors
    at = rows[:, None] * CHOSEN + slot[None, :]
    mask = at_work[:, None] & there
    tl.store(weights + at, share, mask=mask)
    tl.store(index + at, picks, mask=mask)


def choose_experts(
    unit: Tensor, proj: Tensor, scale: Tensor, per_expert_scale: Tensor, chosen: int, span: Tensor
) -> tuple[Tensor, Tensor]:
    """Which experts a row goes to, the likeliest first, and how much each counts.

    scores = (unit * scale * H^-0.5) proj^T; of their softmax the `chosen` largest, divided by their sum, times the
    expert's own scale. Of equal scores the lower expert's comes first. (The softmax's own sum cancels.)

    unit: (M, H), the residual after a norm without weight; proj: (E, H); scale: (H,); per_expert_scale: (E,)
    span: (2,) int32; returns (M, k) float32 weights, (M, k) int32 experts, undefined outside the span
    """
    (rows, hidden), experts = unit.shape, proj.shape[0]
    weights = torch.empty(rows, chosen, dtype=torch.float32, device=unit.device)
    index = torch.empty(rows, chosen, dtype=torch.int32, device=unit.device)
    _choose_experts[(triton.cdiv(rows, BLOCK_ROWS),)](
        unit,
        proj,
        scale,
        per_expert_scale,
        span,
        weights,
        index,
        hidden,
        hidden**-0.5,
        EXPERTS=experts,
        BLOCK_E=max(64, triton.next_power_of_2(experts)),
        CHOSEN=chosen,
        WIDTH=triton.next_power_of_2(chosen),
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_K=BLOCK_K,
        EVEN_K=hidden % BLOCK_K == 0,
        UPCAST=INTERPRETED,
        num_warps=4,
        num_stages=stages_of(unit, 3 if shares_little(architecture(unit)) else 4),
    )
    return weights, index
