"""advance against its twin, in Triton's interpreter: whole runs, every number of every table after every pass."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from dgbatch.engine.kernels.advance import advance
from dgbatch.engine.kernels.reference import turns
from dgbatch.engine.kernels.tables import Number, Real, Slots, Told
from tests.engine.device_tables import ROWS, canvases_only, empty_slots, empty_tiles, sit_down
from tests.engine.test_reference_turns import VOCAB, C, Pass


def copy_of(slots: Slots) -> Slots:
    return Slots(**{field.name: getattr(slots, field.name).clone() for field in fields(slots)})


def same(ours: Slots, twin: Slots) -> None:
    for field in fields(twin):
        one, other = getattr(ours, field.name).clone(), getattr(twin, field.name).clone()
        if field.name == "told":  # a mean, whose order of additions is free
            means = (told[:, Told.MEAN_ENTROPY].clone().view(torch.float32) for told in (one, other))
            torch.testing.assert_close(*means, atol=1e-6, rtol=0)
            one[:, Told.MEAN_ENTROPY] = other[:, Told.MEAN_ENTROPY] = 0
        assert torch.equal(one, other), field.name


@pytest.mark.parametrize("seed", range(3))
def test_slots_are_those_of_the_twin_after_every_pass(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    slots = empty_slots(4, VOCAB)
    for slot in range(3):
        size = 7 + 9 * slot
        sit_down(slots, slot, 2**63 + slot, prompt=size, text=size, max_steps=4, max_new=30, granted=2 + slot)
    seen = set()
    for turn in range(14):
        if turn == 4:
            slots.numbers[:3, Number.GRANTED] = 64
        tiles = empty_tiles(9, 4)
        turns.plan_tiles(slots, tiles, C, bool(seed % 2))
        at_work = (tiles.canvases.tolist()[1] - tiles.canvases.tolist()[0]) // ROWS
        made_up, ours = Pass(at_work, 6, random), copy_of(slots)
        ids = [made_up.rows(one, torch.int32) for one in (made_up.argmax, made_up.drawn, made_up.fresh)]
        given = tiles, made_up.rows(made_up.entropy, torch.float32), *ids
        advance(ours, *given)
        turns.advance(slots, *given)
        same(ours, slots)
        told = slots.told[:3]
        seen |= {("settled", *pair) for pair in told[:, [Told.SETTLED, Told.FINISH]].tolist()}
        seen |= {("denoised", one) for one in told[:, Told.DENOISED].tolist()}
    assert {("settled", 0, 0), ("settled", 1, 0), ("denoised", 0), ("denoised", 1)} <= seen
    assert ("settled", 1, 1) in seen or ("settled", 1, 2) in seen


def step_both(slots: Slots, entropy: torch.Tensor) -> tuple[Slots, Slots]:
    tiles = empty_tiles(2, len(slots.numbers))
    canvases_only(tiles, [0], ROWS)
    rows = torch.arange(ROWS, dtype=torch.int32)
    ours = copy_of(slots)
    advance(ours, tiles, entropy, rows, rows + 100, rows + 200)
    turns.advance(slots, tiles, entropy, rows, rows + 100, rows + 200)
    return ours, slots


@pytest.mark.parametrize("bound", [0.0, 0.25, 1.0, 1000.0])
def test_acceptance_by_counting_is_acceptance_by_sorting(bound: float) -> None:
    """Eighths with many ties and zeros: sums are exact in any order, and some meet the bound exactly."""
    random = torch.Generator().manual_seed(int(bound))
    slots = empty_slots(1, 400)
    sit_down(slots, 0)
    slots.reals[0, Real.ENTROPY_BOUND] = bound
    entropy = torch.randint(9, (2 * ROWS,), generator=random) / 8
    entropy[entropy == 0.125] = 0.0
    same(*step_both(slots, entropy))


def test_words_after_the_room_that_is_left_end_nothing() -> None:
    for max_new, finish in ((3, 2), (4, 1), (64, 1), (65, 1)):
        slots = empty_slots(1, 400)
        sit_down(slots, 0, max_steps=1, max_new=max_new)
        slots.end_ids[:] = torch.tensor([3, 50])
        ours, twin = step_both(slots, torch.ones(2 * ROWS))
        same(ours, twin)
        assert ours.told[0, Told.FINISH] == finish


def test_a_slot_gets_the_same_bits_alone_and_in_company() -> None:
    """Three slots in one pass, then each by itself."""
    random = torch.Generator().manual_seed(11)
    slots = empty_slots(3, VOCAB)
    for slot in range(3):
        sit_down(slots, slot, 77 + slot, max_new=100)
    made_up = Pass(3, 3, random)
    tiles, together = empty_tiles(4, 3), copy_of(slots)
    canvases_only(tiles, [0, 1, 2], C)
    entropy, *ids = (rows.flatten() for rows in (made_up.entropy, made_up.argmax, made_up.drawn, made_up.fresh))
    advance(together, tiles, entropy, *(one.int() for one in ids))
    for slot in range(3):
        alone, own = copy_of(slots), slice(slot * ROWS, (slot + 1) * ROWS)
        canvases_only(tiles, [slot], C)
        advance(alone, tiles, entropy[own], *(one[own].int() for one in ids))
        for field in fields(slots):
            if field.name not in ("pages", "end_ids"):
                assert torch.equal(getattr(alone, field.name)[slot], getattr(together, field.name)[slot])
