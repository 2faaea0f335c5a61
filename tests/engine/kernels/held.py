"""How a kernel in Triton's interpreter is held to its twin.

float32: 2e-6, sums of a row in another order. bfloat16: one step (2^-7 of a number at most), where two sums that
differ in their last bits fall on two sides of a rounding, and only few numbers at that: the kernel rounds as its twin
does, in the interpreter too, and what it rounds on the way to an output may carry such a step on.
"""

from __future__ import annotations

from typing import Any

import pytest
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


def mark_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on what a wrapper allocates is full of sevens, so that a test sees what a kernel did not touch."""
    plain = Tensor.new_empty

    def marked(own: Tensor, *shape: int, **options: Any) -> Tensor:
        return plain(own, *shape, **options).fill_(7)

    monkeypatch.setattr(Tensor, "new_empty", marked)


def untouched(output: Tensor, first: int, end: int) -> bool:
    """Whether rows outside [first, end) are as mark_outputs left them, and those inside are not."""
    touched = (output != 7).flatten(1).any(1).nonzero().flatten().tolist()
    return touched == [*range(first, end)]
