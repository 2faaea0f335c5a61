"""The norm of a row that lies in one program's registers, and the block that such a program holds.

A row of 2,816 lies in a block of 4,096 with a mask: lanes past the end issue no loads, and every row is read once and
waits once. A loop over exact pieces would wait for each piece, or read the row twice. With 8 warps a thread has 16
numbers of a row: two 16-byte loads, and few enough for `combine`, which reads ten rows and four weights, not to spill.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def unit(x, SIZE: tl.constexpr, eps):
    """x / sqrt(mean(x^2) + eps) of one row, float32; lanes past SIZE hold zero."""
    return x * tl.rsqrt(tl.sum(x * x, 0) * (1.0 / SIZE) + eps)


def block_of(hidden: int) -> tuple[int, int]:
    """Numbers in the block of a row, and warps: 16 numbers for each thread where there are so many."""
    block = triton.next_power_of_2(hidden)
    return block, min(8, max(1, block // 512))
