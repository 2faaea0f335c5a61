"""How a kernel in Triton's interpreter is held to its twin.

float32: 2e-6, sums of a row in another order. bfloat16: one step (2^-7 of a number at most), where two sums that
differ in their last bits fall on two sides of a rounding, and only few numbers at that: the kernel rounds as its twin
does, in the interpreter too, and what it rounds on the way to an output may carry such a step on.
"""

from __future__ import annotations

import torch
from torch import Tensor

TYPES = [torch.float32, torch.bfloat16]


def held(ours: Tensor, twin: Tensor, rows: slice = slice(None), few: float = 0.02) -> None:
    """Alike in shape and dtype, and alike in numbers in these rows. few: the share of bfloat16 that may be off."""
    assert ours.shape == twin.shape and ours.dtype == twin.dtype
    ours, twin = ours[rows], twin[rows]
    if ours.dtype != torch.bfloat16:
        torch.testing.assert_close(ours, twin, rtol=2e-6, atol=2e-6)
        return
    torch.testing.assert_close(ours, twin, rtol=2**-7, atol=2**-9)
    assert (ours != twin).float().mean() <= few
