"""plan_tiles against its twin, in Triton's interpreter: every number of every table."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from dgbatch.engine.kernels.plan_tiles import plan_tiles
from dgbatch.engine.kernels.reference import turns
from dgbatch.engine.kernels.tables import Number, Slots
from tests.engine.device_tables import empty_slots, empty_tiles, sit_down
from tests.engine.test_reference_turns import C


def anybody(count: int, random: torch.Generator) -> Slots:
    """Slots in any state: prompts and settled canvases, encoded so far, granted pages, steps, nobody."""
    slots = empty_slots(count)
    for slot in range(count):
        running, prompt, settled, done, granted, step = (
            int(torch.randint(low, high, (), generator=random))
            for low, high in ((0, 5), (1, 40), (0, 4), (0, 8), (0, 9), (0, 3))
        )
        chunks = -(-prompt // C) + settled
        sit_down(
            slots, slot, running=int(running > 0), prompt=prompt, text=prompt + settled * C,
            chunks=min(done, chunks), granted=granted, step=step, max_steps=5,
        )  # fmt: skip
        slots.reals[slot, :2] = torch.rand(2, generator=random)
    return slots


@pytest.mark.parametrize("seed", range(16))
def test_tables_are_those_of_the_twin(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    count, capacity = (int(torch.randint(1, most, (), generator=random)) for most in (9, 16))
    slots, fold = anybody(count, random), bool(seed % 2)
    ours, twin = empty_tiles(capacity, count), empty_tiles(capacity, count)
    plan_tiles(slots, ours, C, fold)
    turns.plan_tiles(slots, twin, C, fold)
    for field in fields(twin):
        torch.testing.assert_close(getattr(ours, field.name), getattr(twin, field.name), atol=2e-7, rtol=0)


def test_some_of_those_passes_have_all_there_is() -> None:
    """What the test above compares is not always nothing."""
    seen = set()
    for seed in range(16):
        random = torch.Generator().manual_seed(seed)
        count, capacity = (int(torch.randint(1, most, (), generator=random)) for most in (9, 16))
        tiles = empty_tiles(capacity, count)
        turns.plan_tiles(anybody(count, random), tiles, C, bool(seed % 2))
        (_, end), (first, last) = tiles.everyone.tolist(), tiles.canvases.tolist()
        seen |= {("chunks", first > 0), ("canvases", last > first), ("full", end == 64 * capacity), ("idle", end == 0)}
    assert seen >= {("chunks", True), ("canvases", True), ("full", True), ("full", False), ("idle", True)}


def test_slots_are_not_touched() -> None:
    slots = empty_slots(2)
    sit_down(slots, 1, prompt=30, text=30)
    before = slots.numbers.clone()
    plan_tiles(slots, empty_tiles(9, 2), C, True)
    assert torch.equal(slots.numbers, before)
    assert before[1, Number.PROMPT] == 30
