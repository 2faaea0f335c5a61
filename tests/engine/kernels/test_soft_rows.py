"""soft_rows against its twin, in Triton's interpreter.

Tolerances: 1e-5 for float32 sums of a few hundred terms. In bfloat16 a sum that lies at the border of a rounding may
fall on its other side, a step of 2^-7; times 4 and rounded it stays one.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dgbatch.engine.kernels.reference import sampling
from dgbatch.engine.kernels.soft_rows import SPLITS, soft_rows
from dgbatch.engine.kernels.tables import HEAD_COLUMNS
from tests.engine.device_tables import ROWS, canvases_only, empty_slots
from tests.engine.test_reference_sampling import C, Case


def after(operation: object, case: Case, e: Tensor, factors: Tensor) -> Tensor:
    case.slots.soft.fill_(99.0)
    operation(e, factors, case.embedding, 4.0, case.slots, case.tiles)
    return case.slots.soft.clone()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)])
@pytest.mark.parametrize("vocab", [60, 300, 1024])
def test_what_it_leaves_is_what_the_twin_leaves(vocab: int, dtype: torch.dtype, tolerance: float) -> None:
    case = Case(vocab, dtype=dtype)
    given = case.head()[0], case.decide()[4]
    ours, twin = after(soft_rows, case, *given), after(sampling.soft_rows, case, *given)
    torch.testing.assert_close(ours, twin, atol=tolerance, rtol=tolerance)
    assert (ours[:, C:] == 99).all() and (ours[[1, 2]] == 99).all()


def test_a_hidden_size_that_is_no_multiple_of_the_block() -> None:
    case = Case(300)
    given = case.head()[0], case.decide()[4]
    case.embedding = torch.randn(300, 150, generator=torch.Generator().manual_seed(2))
    case.slots = empty_slots(5, 300, 150)
    ours, twin = after(soft_rows, case, *given), after(sampling.soft_rows, case, *given)
    torch.testing.assert_close(ours, twin, atol=2e-5, rtol=0)


def test_more_column_tiles_than_parts_are_all_counted() -> None:
    """Every token on its own: a row that believes one token gets that token's embedding."""
    vocab = HEAD_COLUMNS * (2 * SPLITS - 1) + 60
    case = Case(vocab)
    believed = torch.zeros(3, ROWS, dtype=torch.int64)
    believed[:, :C] = torch.linspace(0, vocab - 1, 3 * C).long().view(3, C)
    believed = believed.flatten()
    e = torch.zeros(5 * ROWS, vocab)
    e[torch.arange(3 * ROWS), believed] = 1
    ours = after(soft_rows, case, e, torch.ones(5 * ROWS, -(-vocab // HEAD_COLUMNS)))
    expected = case.embedding[believed].view(3, ROWS, -1)[:, :C] * 4
    assert torch.equal(ours[case.at_work, :C], expected)


def test_a_canvas_gets_the_same_bits_alone_and_in_company() -> None:
    case = Case(300)
    e, factors = case.head()[0], case.decide()[4]
    together = after(soft_rows, case, e, factors)
    for place, slot in enumerate(case.at_work):
        canvases_only(case.tiles, [slot], C)
        mine = (one[place * ROWS : (place + 1) * ROWS].repeat(5, 1) for one in (e, factors))
        assert torch.equal(after(soft_rows, case, *mine)[slot], together[slot])


def test_clean_text_alone_touches_nothing() -> None:
    case = Case(60)
    given = case.head()[0], case.decide()[4]
    canvases_only(case.tiles, [], C, before=2)
    assert (after(soft_rows, case, *given) == 99).all()
