"""decide against its twin, in Triton's interpreter. Sums of a few tiles: 1e-5 of float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dgbatch.engine.kernels import decide as kernel
from dgbatch.engine.kernels.decide import decide
from dgbatch.engine.kernels.reference import sampling
from dgbatch.engine.kernels.tables import Number
from tests.engine.device_tables import ROWS, canvases_only
from tests.engine.test_reference_sampling import C, Case, of_canvases


def both(case: Case) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Kernel and twin on what the head's twin wrote; the rows of canvases at work."""
    given = (*case.head(), case.slots, case.tiles)
    ours, twin = decide(*given), sampling.decide(*given)
    return tuple(one[: 3 * ROWS] for one in ours), tuple(one[: 3 * ROWS] for one in twin)


def compare(case: Case) -> None:
    ours, twin = both(case)
    for one, other, tolerance in zip(ours, twin, (1e-5, 0, 0, 0, 1e-5), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [60, 300])
@pytest.mark.parametrize("temperature", [0.05, 0.8, 20.0])
def test_what_leaves_is_what_the_twin_says(vocab: int, temperature: float, dtype: torch.dtype) -> None:
    """Drawn tokens too: no level of these lies so near a border that the order of a sum decides."""
    compare(Case(vocab, temperature, dtype))


def test_a_column_tile_of_banned_tokens_is_never_drawn_from() -> None:
    case = Case(300, 20.0)
    case.slots.allowed[:, 128:256] = 0
    compare(case)
    ours, _ = both(case)
    for ids in ours[1:3]:
        assert not ((ids >= 128) & (ids < 256)).any()
    assert not ours[4][:, 1].any()


def test_no_token_of_probability_zero_is_drawn() -> None:
    case = Case(300, 0.02)
    drawn = of_canvases(both(case)[0][2]).long()
    assert (case.z().softmax(-1).gather(-1, drawn[..., None]) > 0).all()


def test_sums_that_disagree_with_e_draw_no_token_of_probability_zero() -> None:
    case = Case(300, 20.0)
    case.slots.allowed[:, 280:] = 0
    e, totals, *rest = case.head()
    # rounded ones do, by less
    for sums in (totals * 1.01, totals * 0.99):
        drawn = decide(e, sums, *rest, case.slots, case.tiles)[2][: 3 * ROWS].long()
        assert (e[: 3 * ROWS].gather(1, drawn[:, None]) > 0).all()


@pytest.mark.parametrize("operation", [decide, sampling.decide], ids=["kernel", "twin"])
def test_a_level_at_the_very_start_of_a_column_tile_draws_its_first_token_that_may_be(operation: Any) -> None:
    """Sums of two tiles for which level * sum lies above the first, and rounding leaves the second nothing of it."""
    case = Case(256)
    level = torch.cat([case.level(ROWS)[0].flatten(), torch.ones(2 * ROWS)])
    near = level / (1 - level)
    sums = near[:, None] * (1 + torch.arange(-40, 40) * 2.0**-24)
    target = level[:, None] * (sums + 1)
    fits = (target > sums) & (target <= sums + 1 - 1)
    chosen = fits.int().argmax(1)
    rows = fits.any(1) & (level < 1)
    assert rows.sum() > 20
    e = torch.zeros(5 * ROWS, 256)
    e[:, 3] = e[:, 128 + 5] = 1
    totals = torch.stack([sums.gather(1, chosen[:, None])[:, 0], torch.ones(5 * ROWS)], 1)
    zeros, ids = torch.zeros(5 * ROWS, 2), torch.tensor([3, 133], dtype=torch.int32).repeat(5 * ROWS, 1)
    drawn = operation(e, totals, zeros, zeros, ids, case.slots, case.tiles)[2]
    assert (drawn[rows] == 133).all()


def test_greedy_slots_draw_their_argmax() -> None:
    case = Case(60, 5.0)
    case.slots.numbers[0, Number.GREEDY] = 1
    compare(case)
    argmax, drawn = (of_canvases(one) for one in both(case)[0][1:3])
    assert torch.equal(drawn[1], argmax[1]) and (drawn[0] != argmax[0]).any()


def test_a_canvas_gets_the_same_bits_alone_and_in_company() -> None:
    case = Case(300)
    wrote = case.head()
    together = decide(*wrote, case.slots, case.tiles)
    for place, slot in enumerate(case.at_work):
        canvases_only(case.tiles, [slot], C)
        mine = (one[place * ROWS : (place + 1) * ROWS].repeat(5, 1) for one in wrote)
        alone = decide(*mine, case.slots, case.tiles)
        for one, of_all in zip(alone, together, strict=True):
            assert torch.equal(one[:ROWS], of_all[place * ROWS : (place + 1) * ROWS])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's numpy does not like them
def test_what_is_no_number_makes_a_token_all_the_same() -> None:
    """A model that breaks down must not send the next step to memory that is not its own."""
    case = Case(300)
    e, *sums = case.head()
    broken = [one.fill_(torch.nan) for one in sums[:3]]
    _, argmax, drawn, fresh, _ = decide(e.fill_(torch.nan), *broken, sums[3], case.slots, case.tiles)
    for ids in (argmax, drawn, fresh):
        assert (ids[: 3 * ROWS] >= 0).all() and (ids[: 3 * ROWS] < 300).all()


def test_clean_text_alone_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(60)
    wrote = case.head()
    canvases_only(case.tiles, [], C, before=2)
    monkeypatch.setattr(kernel.torch, "empty", lambda *size, **like: torch.full(size, 7, **like))
    monkeypatch.setattr(kernel.torch, "empty_like", lambda like: torch.full_like(like, 7))
    assert all((one == 7).all() for one in decide(*wrote, case.slots, case.tiles))
