"""Whether a canvas gets the same bits in company as alone: asked of the machine, for no library promises it.

A CPU library picks its GEMM kernel, and with it the order in which a row is summed, by the number of rows, the dtype
and the threads; an elementwise function may take another path for the last few values of a tensor. Measured with
torch 2.13 and MKL on AVX-512, for 1 to 16 canvases: float32 on one thread gives the same bits where a canvas has 16
rows or more; fewer rows, two threads with large matrices, and bfloat16 do not (docs/lab_log.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def same_in_company(run: Callable[[int, int], Sequence[Tensor]], canvases: int) -> bool:
    """Whether any 2 to `canvases` canvases together come out as each of them does alone, bit for bit.

    run(first, end): everything that is computed for canvases first to end - 1 of some fixed row of canvases, as
    tensors with the canvas axis first
    """
    alone = [run(index, index + 1) for index in range(canvases)]
    each = [torch.cat(parts) for parts in zip(*alone, strict=True)]
    return all(
        torch.equal(together, apart[:size])
        for size in range(2, canvases + 1)
        for together, apart in zip(run(0, size), each, strict=True)
    )
