"""The residual after attention, and the three readings of it: dense MLP, experts, router.

x' = x + rms_norm(attended) * after;  u = x' / sqrt(mean(x'^2) + eps)
dense_in = u * before_mlp, experts_in = u * before_experts, unit = u
One program per row: x' stays in registers, and one length of it serves all three.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from dgbatch.engine.kernels.launch import INTERPRETED
from dgbatch.engine.kernels.norm import block_of, unit
from dgbatch.engine.kernels.rounding import rounded


@triton.jit
def _residual_norms(
    x,
    attended,
    after,
    before_mlp,
    before_experts,
    span,
    moved,
    dense_in,
    experts_in,
    alone,
    eps,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    UPCAST: tl.constexpr,
):
    row = tl.program_id(0)
    if (row < tl.load(span)) | (row >= tl.load(span + 1)):
        return
    column = tl.arange(0, BLOCK)
    inside = column < HIDDEN
    dtype: tl.constexpr = x.dtype.element_ty
    at = row.to(tl.int64) * HIDDEN + column
    own = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    more = tl.load(attended + at, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(after + column, mask=inside, other=0.0).to(tl.float32)
    of_mlp = tl.load(before_mlp + column, mask=inside, other=0.0).to(tl.float32)
    of_experts = tl.load(before_experts + column, mask=inside, other=0.0).to(tl.float32)
    branch = rounded(unit(more, HIDDEN, eps) * weight, dtype, UPCAST).to(tl.float32)
    total = rounded(own + branch, dtype, UPCAST)
    tl.store(moved + at, total, mask=inside)
    u = unit(total.to(tl.float32), HIDDEN, eps)
    tl.store(dense_in + at, rounded(u * of_mlp, dtype, UPCAST), mask=inside)
    tl.store(experts_in + at, rounded(u * of_experts, dtype, UPCAST), mask=inside)
    tl.store(alone + at, rounded(u, dtype, UPCAST), mask=inside)


def residual_norms(
    x: Tensor, attended: Tensor, after: Tensor, before_mlp: Tensor, before_experts: Tensor, eps: float, span: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, attended: (M, H); weights: (H,); returns x', dense_in, experts_in, unit like x. As reference/rows.py."""
    rows, hidden = x.shape
    moved, dense_in, experts_in, alone = (x.new_empty(rows, hidden) for _ in range(4))
    block, warps = block_of(hidden)
    _residual_norms[(rows,)](
        x,
        attended,
        after,
        before_mlp,
        before_experts,
        span,
        moved,
        dense_in,
        experts_in,
        alone,
        eps,
        HIDDEN=hidden,
        BLOCK=block,
        UPCAST=INTERPRETED,
        num_warps=warps,
        num_stages=1,
    )
    return moved, dense_in, experts_in, alone
