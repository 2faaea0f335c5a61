"""Rows at work among rows that nobody may look at."""

from __future__ import annotations

import torch
from torch import Tensor


def span(first: int, end: int) -> Tensor:
    return torch.tensor([first, end], dtype=torch.int32)


def among_garbage(x: Tensor, before: int = 3, behind: int = 2) -> tuple[Tensor, Tensor, slice]:
    """x with NaN above and below it, the span of x in that, and the same as a slice."""
    first, end = before, before + len(x)
    nothing = x.new_full((1, x.shape[1]), float("nan"))
    return torch.cat([nothing.expand(before, -1), x, nothing.expand(behind, -1)]), span(first, end), slice(first, end)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def small_integers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """-1, 0 or 1: sums of up to 256 products are exact in bfloat16, which the interpreter does not round but cut."""
    return torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)
