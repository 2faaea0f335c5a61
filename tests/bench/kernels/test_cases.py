"""The made-up passes of dgbatch/bench/kernels: that their tables fit each other, and that nothing is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dgbatch.bench.kernels.case import Case
from dgbatch.bench.kernels.cases import REAL, TINY, cases, ragged
from dgbatch.bench.kernels.seats import Company, Seat
from dgbatch.engine.kernels import operations
from dgbatch.engine.kernels.tables import Number, Of
from dgbatch.roofline import DEVICES, denoise

RAGGED = ragged(TINY)


def test_chunks_come_before_canvases_and_follow_the_pages_of_their_slot() -> None:
    company = Company((Seat(prompt=20, settled=1, chunks=2), None, Seat(prompt=8, chunks=1, canvas=False, later=0)), 8)
    assert [tile[:6] for tile in company.table] == [
        [0, 0, 16, 4, 2, 0],  # the end of a prompt: four tokens
        [0, 0, 20, 8, 3, 0],  # the canvas that settled
        [2, 0, 0, 8, 0, 0],
        [0, 1, 28, 8, 4, 0],
    ]
    assert (company.tile_rows, company.rows, company.span, company.tokens) == (64, 256, 256, 28)
    assert company.true_rows[:5] == [0, 1, 2, 3, 64]
    assert company.true_canvas_rows == [0, 1, 2, 3, 4, 5, 6, 7]


def test_room_for_more_tiles_makes_more_rows_but_none_at_work() -> None:
    company = Company.of(TINY, canvases=2, chunks=1, prefix=30, room=5)
    tiles = company.laid()
    assert (company.rows, company.span) == (320, 192)
    assert tiles.everyone.tolist() == [0, 192]
    assert tiles.canvases.tolist() == [64, 192]
    assert tiles.of_slot.tolist() == [[0, 0], [1, 0], [-1, 1]]


def test_slots_say_what_the_tiles_of_the_pass_still_have_to_encode() -> None:
    case = next(case for case in cases(TINY) if case.operation == "plan_tiles")
    slots, *_ = case.arguments(RAGGED, torch.float32)
    numbers = slots.numbers
    assert numbers[:, Number.RUNNING].tolist() == [1, 1, 0, 1, 1, 1]
    assert numbers[0, [Number.PROMPT, Number.TEXT, Number.ENCODED, Number.CHUNKS]].tolist() == [28, 40, 28, 3]
    assert numbers[4, [Number.CHUNKS, Number.GRANTED]].tolist() == [1, 4]
    for kind in range(2):
        used = slots.pages[kind][slots.pages[kind] >= 0].tolist()
        assert len(used) == len(set(used))
        assert max(used) < RAGGED.pages
    assert slots.soft[0].isnan().all()  # its canvas had no step yet
    assert slots.soft[1].isfinite().all()


def test_rows_that_are_not_at_work_hold_what_would_show() -> None:
    linear = next(case for case in cases(TINY) if case.operation == "linear")
    x, _, span = linear.arguments(RAGGED, torch.float32)
    assert span.tolist() == [0, RAGGED.span]
    assert x[: RAGGED.span].isfinite().all()
    assert x[RAGGED.span :].isnan().all()


@pytest.mark.parametrize("case", cases(TINY), ids=lambda case: case.name)
def test_arguments_are_the_same_again_and_have_the_same_shapes_on_no_device(case: Case) -> None:
    first, second = (flat(case.arguments(RAGGED, torch.bfloat16, seed=3)) for _ in range(2))
    other = flat(case.arguments(RAGGED, torch.bfloat16, seed=4))
    shapes = flat(case.arguments(RAGGED, torch.bfloat16, "meta"))
    assert all(torch.equal(one.nan_to_num(), two.nan_to_num()) for one, two in zip(first, second, strict=True))
    assert [(one.shape, one.dtype) for one in first] == [(one.shape, one.dtype) for one in shapes]
    assert not all(one.shape == two.shape and torch.equal(one, two) for one, two in zip(first, other, strict=True))


def flat(arguments: tuple) -> list[torch.Tensor]:
    found = []
    for one in arguments:
        if isinstance(one, torch.Tensor):
            found.append(one)
        elif hasattr(one, "__dataclass_fields__"):
            found += [getattr(one, name) for name in one.__dataclass_fields__]
    return found


def test_the_chosen_experts_of_a_row_differ_and_each_finds_its_rows_in_order() -> None:
    case = next(case for case in cases(TINY) if case.operation == "experts_up")
    _, _, counts, places, chosen = case.arguments(RAGGED, torch.float32)
    assert counts.sum() == RAGGED.span * TINY.chosen
    seen = [place for expert in range(TINY.experts) for place in places[expert, : counts[expert]].tolist()]
    assert sorted(seen) == list(range(RAGGED.span * chosen))
    assert all(row.tolist() == sorted(row.tolist()) for row in (places[e, : counts[e]] for e in range(TINY.experts)))


def test_the_cases_of_a_step_cost_what_the_roofline_says_a_step_costs() -> None:
    """30 layers of the 26B model, one canvas after 1,024 tokens: bytes of weights and sums of products."""
    company, device = Company.of(REAL, 1), DEVICES[0]
    work = {case.name: case.least(company, 2) for case in cases(REAL)}
    floor = denoise(REAL, device, "bf16", 1, 1024)
    experts = 30 * (work["experts_up"].bytes + work["experts_down"].bytes)
    assert experts == pytest.approx(floor["experts"].bytes, rel=0.02)  # and the rows in between
    assert 30 * (work["experts_up"].flops + work["experts_down"].flops) == pytest.approx(floor["experts"].flops)
    projections = 25 * (work["linear qkv sliding"].flops + work["linear attention out sliding"].flops)
    projections += 5 * (work["linear qkv full"].flops + work["linear attention out full"].flops)
    assert projections == pytest.approx(floor["attention projections"].flops)
    assert work["head"].flops == pytest.approx(floor["head"].flops)
    # the window is 1,023 keys before a canvas; the roofline says 1,024
    looked = 25 * work["attend sliding"].flops + 5 * work["attend full"].flops
    assert looked == pytest.approx(floor["attention"].flops, rel=1e-3)


def test_what_counts_of_a_result_is_rows_at_work_without_padding() -> None:
    by_name = {case.name: case for case in cases(TINY)}
    everything = torch.arange(RAGGED.rows * TINY.chosen * 2).view(-1, 2)
    counted = by_name["experts_up"].results(RAGGED, (), everything)["inner"]
    assert counted.shape == (RAGGED.tokens, TINY.chosen, 2)
    assert counted[0, 0, 0] == 0
    assert RAGGED.true_rows[12] == 64  # twelve tokens of the first tile, then the second tile
    assert counted[12, 0, 0] == 64 * TINY.chosen * 2
    counts, places = torch.tensor([1, 0, 2]), torch.tensor([[4, 9], [9, 9], [5, 6]])
    told = by_name["group_rows"].results(RAGGED, (), (counts, places))
    assert told["places"].tolist() == [[4, 0], [0, 0], [5, 6]]


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "apart"])
def test_the_table_of_a_company_is_what_plan_tiles_makes_of_its_seats(fold: bool) -> None:
    """Without folding a slot's canvas waits for its chunks."""
    waiting = replace(RAGGED, seats=(replace(RAGGED.seats[0], canvas=fold), *RAGGED.seats[1:]))
    case = next(case for case in cases(TINY) if case.name == ("plan_tiles folded" if fold else "plan_tiles"))
    slots, tiles, *how = case.arguments(waiting, torch.float32)
    operations.plan_tiles(slots, tiles, *how)
    expected = waiting.laid()
    assert tiles.table[: len(waiting.table), Of.CANVAS].tolist() == [0, 0, 0, 0, *[1] * (3 + fold)]
    for name in ("table", "spans", "of_slot"):
        assert torch.equal(getattr(tiles, name), getattr(expected, name)), name
    torch.testing.assert_close(tiles.temperature, expected.temperature)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", cases(TINY), ids=lambda case: case.name)
def test_every_operation_takes_its_arguments_and_reads_no_row_that_is_not_at_work(
    case: Case, dtype: torch.dtype
) -> None:
    """Such rows hold NaN, and so does what nobody believes yet; nothing of it is in the results."""
    arguments = case.arguments(RAGGED, dtype)
    results = case.results(RAGGED, arguments, getattr(operations, case.operation)(*arguments))
    assert set(results) == {*case.outputs, *case.writes}
    for name, result in results.items():
        if name == "slots.soft":
            result = result[[slot for slot, seat in enumerate(RAGGED.seats) if seat and seat.canvas], : TINY.canvas]
        assert result.numel()
        assert result.isfinite().all(), name
