"""The head against its twin, in Triton's interpreter.

Tolerances: in float32 z is near 100 at most, of which one step is 8e-6, and tanh is made of an exponential. In bfloat16
the case has quarters as logits, so that both round them alike, and e may fall on two sides of a border: a step of 2^-7.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dgbatch.engine.kernels import head as kernel
from dgbatch.engine.kernels.head import head
from dgbatch.engine.kernels.reference import sampling
from tests.engine.device_tables import ROWS, canvases_only
from tests.engine.test_reference_sampling import CAP, C, Case

EXACT = (1e-4, 1e-4, 1e-3, 2e-4, 0.0)


def whole_numbers(case: Case) -> Case:
    """Hidden values -1, 0, 1 and weights in quarters: logits are multiples of a quarter below 16."""
    generator = torch.Generator().manual_seed(8)
    finite = ~case.h.isnan()
    case.h[finite] = torch.randint(-1, 2, case.h.shape, generator=generator).to(case.h.dtype)[finite]
    case.embedding[:] = torch.randint(-4, 5, case.embedding.shape, generator=generator) / 4
    return case


def compare(case: Case, ours: tuple[Tensor, ...], tolerances: tuple[float, ...] = EXACT) -> None:
    twin = sampling.head(*case.given())
    work = slice(0, 3 * ROWS)
    for one, other, tolerance in zip(ours, twin, tolerances, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        torch.testing.assert_close(one[work], other[work], atol=tolerance, rtol=1e-5 if tolerance else 0)


def of(case: Case) -> tuple[Tensor, ...]:
    return head(*case.given())


@pytest.mark.parametrize("vocab", [60, 128, 300])
def test_what_leaves_is_what_the_twin_says(vocab: int) -> None:
    case = Case(vocab)
    compare(case, of(case))


@pytest.mark.parametrize("temperature", [0.05, 20.0])
def test_cold_and_hot_rows(temperature: float) -> None:
    """At 0.05 z reaches 600, of which a step is 6e-5; sums of up to 128 e (z - m) are 4e-3 of tens then."""
    case = Case(300, temperature)
    compare(case, of(case), (1e-3, 2e-3, 2e-2, 1e-3, 0.0))


def test_bfloat16_rounds_the_product_and_e() -> None:
    case = whole_numbers(Case(300, dtype=torch.bfloat16))
    compare(case, of(case), (2**-7, 1e-3, 1e-2, 1e-3, 0.0))


def test_the_lowest_of_equal_logits_is_the_argmax() -> None:
    case = whole_numbers(Case(300))
    case.embedding[[7, 90, 130, 299]] = 2.0  # four alike: the highest of a row whose hidden values sum to enough
    ours, twin = of(case)[4][: 3 * ROWS], sampling.head(*case.given())[4][: 3 * ROWS]
    assert torch.equal(ours, twin)
    assert (ours[:, 0] == 7).any() and not (ours[:, 0] == 90).any()


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # exp of it is infinite, as it should be
def test_logits_far_beyond_the_cap_are_the_cap() -> None:
    case = Case(300)
    case.h *= 5000
    ours = of(case)
    compare(case, ours)
    torch.testing.assert_close(ours[3][0, 2], torch.tensor(CAP / 0.8))


def test_a_column_tile_of_banned_tokens_is_minus_infinity_and_nothing_else() -> None:
    case = Case(300)
    case.slots.allowed[:, 128:256] = 0
    ours = of(case)
    compare(case, ours)
    assert (ours[3][: 3 * ROWS, 1] == -torch.inf).all()


@pytest.mark.parametrize("hidden", [16, 40])
def test_a_hidden_size_that_is_no_multiple_of_the_block(hidden: int) -> None:
    case = Case(130)
    case.h = case.h.repeat(1, 3)[:, :hidden].contiguous()
    case.embedding = case.embedding.repeat(1, 3)[:, :hidden].contiguous()
    compare(case, of(case), (1e-4, 1e-4, 2e-3, 4e-4, 0.0))


def test_a_canvas_gets_the_same_bits_alone_and_in_company() -> None:
    case = Case(300)
    together = of(case)
    for place, slot in enumerate(case.at_work):
        alone = Case(300)
        canvases_only(alone.tiles, [slot], C)
        alone.tiles.temperature[0] = case.tiles.temperature[2 + place]
        alone.h[:ROWS] = case.h[(2 + place) * ROWS : (3 + place) * ROWS]
        for one, of_all in zip(of(alone), together, strict=True):
            assert torch.equal(one[:ROWS], of_all[place * ROWS : (place + 1) * ROWS])


def test_clean_text_alone_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(60)
    canvases_only(case.tiles, [], C, before=2)
    monkeypatch.setattr(kernel.torch, "empty", lambda *size, **like: torch.full(size, 7, **like))
    assert all((one == 7).all() for one in of(case))


def test_blocks_of_rows_divide_a_tile_and_never_depend_on_how_many_there_are() -> None:
    assert [kernel.config(rows, 2, 90).block_rows for rows in (64, 128, 192, 256)] == [64, 128, 64, 256]
