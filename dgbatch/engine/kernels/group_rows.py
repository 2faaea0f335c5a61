"""Lists of the rows that chose each expert: no atomics, so that the order is always the same, and no host."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_ROWS = 1024  # four canvases a round


@triton.jit
def _group_rows(index, span, counts, places, rows, CHOSEN: tl.constexpr, WIDTH: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    expert = tl.program_id(0)
    first, end = tl.load(span), tl.load(span + 1)
    slot = tl.arange(0, WIDTH)
    found = tl.zeros((), tl.int32)
    for start in range(first, end, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        there = (row[:, None] < end) & (slot[None, :] < CHOSEN)
        mine = tl.load(index + row[:, None] * CHOSEN + slot[None, :], mask=there, other=-1) == expert
        # a row chooses an expert at most once, so ranks are counted over rows and not over choices
        hit = tl.sum(mine.to(tl.int32), 1)
        place = row * CHOSEN + tl.sum(tl.where(mine, slot[None, :], 0), 1)
        rank = found + tl.cumsum(hit, 0) - hit
        tl.store(places + expert.to(tl.int64) * rows + rank, place, mask=hit != 0)
        found += tl.sum(hit, 0)
    tl.store(counts + expert, found)


def group_rows(index: Tensor, experts: int, span: Tensor) -> tuple[Tensor, Tensor]:
    """Of each expert, how many rows chose it and where they stand in `index`, flattened.

    index: (M, k) int32, no expert twice in a row; span: (2,) int32
    returns counts (E,) int32 and places (E, M) int32: places[e, :counts[e]] ascend, the rest is undefined
    """
    rows, chosen = index.shape
    counts = torch.empty(experts, dtype=torch.int32, device=index.device)
    places = torch.empty(experts, rows, dtype=torch.int32, device=index.device)
    _group_rows[(experts,)](
        index,
        span,
        counts,
        places,
        rows,
        CHOSEN=chosen,
        WIDTH=triton.next_power_of_2(chosen),
        BLOCK_ROWS=min(BLOCK_ROWS, triton.next_power_of_2(rows)),
        num_warps=4,
        num_stages=1,
    )
    return counts, places
