"""The kernel against its twin, in Triton's interpreter.

Tolerances: 1e-5 for float32 sums of a few dozen terms. bfloat16 is rounded where the twin rounds and by truncation
once (the interpreter): 2 steps of 2^-8 at values up to 3.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dgbatch.engine.kernels.attend import attend
from dgbatch.engine.kernels.reference import looking
from tests.engine.looks import Pass, Shape
from tests.engine.test_reference_looking import CASES, WINDOW


def both(case: Pass, sliding: bool, span: Tensor | None = None) -> tuple[Tensor, Tensor]:
    given = (
        case.q,
        case.slots,
        case.tiles,
        case.pool,
        sliding,
        case.window,
        case.tiles.everyone if span is None else span,
    )
    return attend(*given), looking.attend(*given)


def close(case: Pass, ours: Tensor, twin: Tensor, tolerance: float = 1e-5) -> None:
    for tile in range(len(case.tiles.table) - 1):
        there = case.there(tile)
        torch.testing.assert_close(ours[there], twin[there], atol=tolerance, rtol=0)


@pytest.mark.parametrize("sliding", [False, True], ids=["full", "sliding"])
@pytest.mark.parametrize("name", CASES)
def test_the_kernel_sees_what_its_twin_sees(name: str, sliding: bool) -> None:
    case = Pass(CASES[name], Shape(), sliding, WINDOW)
    close(case, *both(case, sliding))
