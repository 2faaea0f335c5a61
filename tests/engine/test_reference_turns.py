"""What the device decides between passes, against the scheduler, the sampler and the sequences that a CPU uses."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgbatch.engine import noise, sampler
from dgbatch.engine.kernels.operations import advance, plan_tiles
from dgbatch.engine.kernels.tables import Frame, Number, Of, Slots, Tiles, Told
from dgbatch.engine.pages import Pages
from dgbatch.engine.sampler import Belief
from dgbatch.engine.scheduler import Scheduler
from dgbatch.engine.sequence import Sequence, chunks_of
from dgbatch.records import FinishReason, Prompt
from tests.engine import tiny
from tests.engine.device_tables import ROWS, canvases_only, empty_slots, empty_tiles, key_words, sit_down

C, VOCAB = 12, 60
FINISHES: list[FinishReason | None] = [None, "end_of_turn", "length"]


def rows_of(tiles: Tiles) -> list[dict[str, int]]:
    at_work = tiles.everyone.tolist()[1] // ROWS
    return [{column.name: row[column] for column in Of} for row in tiles.table[:at_work].tolist()]


def said(slots: Slots, slot: int) -> dict[str, int]:
    return {column.name: int(slots.told[slot, column]) for column in Told}


def planned(slots: Slots, capacity: int = 32, fold: bool = True) -> Tiles:
    tiles = empty_tiles(capacity, len(slots.numbers))
    plan_tiles(slots, tiles, C, fold)
    return tiles


def test_a_prompt_is_cut_at_multiples_of_the_canvas_and_its_canvas_comes_last() -> None:
    slots = empty_slots(3)
    sit_down(slots, 1, prompt=30, text=30)
    tiles = planned(slots)
    assert [(row["SLOT"], row["CANVAS"], row["START"], row["ROWS"], row["CHUNK"]) for row in rows_of(tiles)] == [
        (1, 0, 0, 12, 0),
        (1, 0, 12, 12, 1),
        (1, 0, 24, 6, 2),
        (1, 1, 30, 12, 3),
    ]
    assert [row["FIRST"] for row in rows_of(tiles)] == [0, 0, 0, 1]
    assert tiles.everyone.tolist() == [0, 4 * ROWS]
    assert tiles.canvases.tolist() == [3 * ROWS, 4 * ROWS]
    assert tiles.of_slot.tolist() == [[-1, 0], [0, 3], [-1, 0]]


def test_a_settled_canvas_is_a_whole_chunk_behind_a_prompt_that_ends_in_a_part_of_one() -> None:
    slots = empty_slots(1)
    sit_down(slots, 0, prompt=30, text=54, chunks=4, encoded=42)
    commit, canvas = rows_of(planned(slots))
    assert (commit["START"], commit["ROWS"], commit["CHUNK"], commit["CANVAS"]) == (42, 12, 4, 0)
    assert (canvas["START"], canvas["ROWS"], canvas["CHUNK"], canvas["CANVAS"]) == (54, 12, 5, 1)


def test_without_fold_a_canvas_waits_until_the_pass_after_its_last_chunk() -> None:
    slots = empty_slots(2)
    sit_down(slots, 0, prompt=12, text=12)
    sit_down(slots, 1, prompt=12, text=12, chunks=1, encoded=12, step=3)
    assert [(row["SLOT"], row["CANVAS"]) for row in rows_of(planned(slots, fold=False))] == [(0, 0), (1, 1)]
    assert [(row["SLOT"], row["CANVAS"]) for row in rows_of(planned(slots))] == [(0, 0), (0, 1), (1, 1)]


def test_chunks_without_a_granted_page_wait_and_so_does_the_canvas_behind_them() -> None:
    slots = empty_slots(1)
    sit_down(slots, 0, prompt=30, text=30, granted=2)
    assert [(row["CANVAS"], row["CHUNK"]) for row in rows_of(planned(slots))] == [(0, 0), (0, 1)]


def test_what_finds_no_tile_waits_in_the_order_of_slots() -> None:
    slots = empty_slots(4)
    sit_down(slots, 0, prompt=12, text=12, chunks=1)
    sit_down(slots, 1, prompt=30, text=30)
    sit_down(slots, 3, prompt=12, text=12, chunks=1)

    def places(capacity: int) -> list[tuple[int, int]]:
        return [(row["SLOT"], row["CANVAS"]) for row in rows_of(planned(slots, capacity))]

    assert places(3) == [(1, 0), (1, 0), (0, 1)]
    assert places(4) == [(1, 0), (1, 0), (1, 0), (0, 1)]
    assert places(5) == [(1, 0), (1, 0), (1, 0), (0, 1), (1, 1)]
    assert places(6) == [(1, 0), (1, 0), (1, 0), (0, 1), (1, 1), (3, 1)]


def test_a_pass_of_nobody_has_empty_spans() -> None:
    slots = empty_slots(2)
    sit_down(slots, 1, running=0)
    tiles = planned(slots)
    assert tiles.everyone.tolist() == [0, 0] and tiles.canvases.tolist() == [0, 0]
    assert tiles.of_slot.tolist() == [[-1, 0], [-1, 0]]


def test_temperatures_are_those_of_the_schedule() -> None:
    slots = empty_slots(3)
    steps = [0, 7, 15]
    for slot, step in enumerate(steps):
        sit_down(slots, slot, chunks=1, step=step)
    own = replace(tiny.SETTINGS, max_denoising_steps=16, temperature_start=0.8, temperature_end=0.4)
    expected = [sampler.temperature_at(step, own) for step in steps]
    torch.testing.assert_close(planned(slots).temperature[:3], torch.tensor(expected), atol=1e-7, rtol=0)


@given(
    texts=st.lists(
        st.tuples(st.booleans(), st.integers(1, 40), st.integers(0, 3), st.integers(0, 6), st.integers(0, 8)),
        min_size=1,
        max_size=8,
    ),
    capacity=st.integers(1, 14),
    fold=st.booleans(),
)
def test_tiles_are_what_a_loop_over_slots_would_choose(
    texts: list[tuple[bool, int, int, int, int]], capacity: int, fold: bool
) -> None:
    slots = empty_slots(len(texts))
    chunks: list[tuple[int, ...]] = []
    canvases: list[tuple[int, ...]] = []
    for slot, (running, prompt, settled, done, granted) in enumerate(texts):
        cuts = [(at, min(C, prompt - at)) for at in range(0, prompt, C)]
        cuts += [(prompt + at * C, C) for at in range(settled)]
        done = min(done, len(cuts))
        sit_down(slots, slot, running=running, prompt=prompt, text=prompt + settled * C, chunks=done, granted=granted)
        wanted = range(done, min(granted, len(cuts))) if running else range(0)
        free = capacity - len(chunks) - len(canvases)
        chunks += [(slot, 0, *cuts[chunk], chunk, 0) for chunk in wanted[:free]]
        complete = running and done + len(wanted) == len(cuts) and (fold or not wanted)
        if complete and len(wanted) < free:
            canvases.append((slot, 1, prompt + settled * C, C, len(cuts), 1))
    tiles = planned(slots, capacity, fold)
    assert [tuple(row.values()) for row in rows_of(tiles)] == chunks + canvases
    assert tiles.canvases.tolist() == [len(chunks) * ROWS, (len(chunks) + len(canvases)) * ROWS]
    for slot, (place, own) in enumerate(tiles.of_slot.tolist()):
        assert own == sum(chunk[0] == slot for chunk in chunks)
        assert place == next((at for at, canvas in enumerate(canvases) if canvas[0] == slot), -1)


class Pass:
    """What a made-up model says of a pass: an argmax that mostly stays, entropies with ties and zeros."""

    def __init__(self, canvases: int, capacity: int, random: torch.Generator):
        shape = (canvases, ROWS)
        sure = torch.rand(canvases, 1, generator=random) < 0.5
        levels = torch.tensor([0.0, 1e-4, 1e-3, 0.04, 0.06, 2.0])
        entropy = levels[torch.randint(6, shape, generator=random)]
        self.entropy = torch.where(sure, entropy.clamp_max(1e-3), entropy)
        self.argmax = torch.full(shape, 9)
        self.argmax[:, 5] += torch.randint(2, (canvases,), generator=random)
        ends = torch.rand(canvases, generator=random) < 0.15
        self.argmax[ends, 7] = 3
        self.drawn, self.fresh = torch.randint(VOCAB, (2, *shape), generator=random)
        self._rest = (capacity - canvases) * ROWS

    def rows(self, of_canvases: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.cat([of_canvases.flatten().to(dtype), torch.full((self._rest,), 77777).to(dtype)])

    def given_to(self, slots: Slots, tiles: Tiles) -> None:
        ids = (self.rows(one, torch.int32) for one in (self.argmax, self.drawn, self.fresh))
        advance(slots, tiles, self.rows(self.entropy, torch.float32), *ids)


class Host:
    """A sequence and its canvas, as engine/canvases.py keeps it."""

    def __init__(self, sequence: Sequence):
        self.sequence = sequence
        self.argmax = self.first_accepted = torch.full((C,), -1)
        self.canvas = self.noise()
        self.encoded = 0

    def noise(self) -> Tensor:
        one = self.sequence
        keys, zero = torch.tensor([noise.split_key(one.prompt.noise_key)]), torch.zeros(1, 1, dtype=torch.int64)
        return noise.draws(keys, torch.tensor([one.canvas]), zero, C, VOCAB)[0][0, 0]


def sequence(index: int, prompt: int, max_new: int, random: torch.Generator) -> Sequence:
    limits = {"max_new_tokens": max_new, "max_denoising_steps": 5}
    own = replace(tiny.SETTINGS, **limits, entropy_bound=0.1, stability=1, confidence=0.005)
    ids = torch.randint(VOCAB, (prompt,), generator=random).tolist()
    return Sequence(Prompt(str(index), 0, (), 2**63 + index), own, ids, frozenset({1, 3}), chunks_of(ids, C))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), fold=st.booleans(), slots_there=st.integers(1, 4))
def test_a_run_decides_as_the_engine_on_a_cpu_does(seed: int, fold: bool, slots_there: int) -> None:
    """Six prompts from the first pass to the last: same tiles, same words about each step, same canvases and texts."""
    random = torch.Generator().manual_seed(seed)
    scheduler = Scheduler(Pages(400, 400, C, 30, False), slots_there, C, 1000, fold)
    sizes = torch.randint(1, 40, (6, 2), generator=random).tolist()
    scheduler.waiting.extend(sequence(index, *size, random) for index, size in enumerate(sizes))
    slots, hosts = empty_slots(slots_there, VOCAB), {}
    while not scheduler.idle:
        for one in scheduler.admit():
            slot, own, length = one.slot, one.settings, len(one.prompt_ids)
            hosts[slot] = Host(one)
            limits = {"max_steps": own.max_denoising_steps, "max_new": own.max_new_tokens}
            sit_down(slots, slot, one.prompt.noise_key, prompt=length, text=length, **limits)
            slots.text[slot, :length] = torch.tensor(one.prompt_ids)
            slots.canvas[slot, :C] = hosts[slot].canvas
            slots.argmax[slot] = slots.first_accepted[slot] = -1
        expected = scheduler.plan()
        tiles = planned(slots, 32, fold)
        tuples = [(tile.sequence.slot, int(not tile.causal), tile.start, tile.rows) for tile in expected]
        ours = [(row["SLOT"], row["CANVAS"], row["START"], row["ROWS"]) for row in rows_of(tiles)]
        assert ours == sorted(tuples, key=lambda tile: (tile[1], tile[0], tile[2]))
        for tile in expected:
            hosts[tile.sequence.slot].encoded += tile.rows * tile.causal
        denoised = [row["SLOT"] for row in rows_of(tiles) if row["CANVAS"]]
        made_up = Pass(len(denoised), 4, random)
        made_up.given_to(slots, tiles)
        for place, slot in enumerate(denoised):
            check_step(slots, hosts[slot], made_up, place)
            if hosts[slot].sequence.finish:
                scheduler.retire(hosts[slot].sequence)
                assert slots.numbers[slot, Number.RUNNING] == 0
        for one in scheduler.flight:
            assert said(slots, one.slot)["ENCODED"] == hosts[one.slot].encoded
            assert said(slots, one.slot)["DENOISED"] == (one.slot in denoised)


def check_step(slots: Slots, host: Host, made_up: Pass, place: int) -> None:
    """Do on the host what engine/canvases.py and engine.py do, and compare."""
    one, slot = host.sequence, host.sequence.slot
    entropy, argmax, drawn, fresh = (
        rows[place, :C] for rows in (made_up.entropy, made_up.argmax, made_up.drawn, made_up.fresh)
    )
    bound = torch.tensor([one.settings.entropy_bound])
    belief = Belief(torch.empty(0), entropy[None], argmax[None])
    decision = sampler.next_canvas(belief, drawn[None], fresh[None], bound)
    accepted, tokens = decision.accepted[0], decision.next_canvas[0]
    unchanged = bool((argmax == host.argmax).all())
    host.first_accepted = torch.where(accepted & (host.first_accepted < 0), drawn, host.first_accepted)
    host.argmax, host.canvas = argmax, tokens
    one.stepped(unchanged)
    mean = decision.mean_entropy.item()
    settled = one.out_of_steps or sampler.is_settled(one.still, mean, one.settings)
    number, step = one.canvas, one.step
    frame = torch.stack([tokens, argmax, accepted, host.first_accepted]).int()
    assert torch.equal(
        slots.frames[slot][[Frame.TOKENS, Frame.ARGMAX, Frame.ACCEPTED, Frame.FIRST_ACCEPTED], :C], frame
    )
    assert torch.equal(slots.frames[slot, Frame.ENTROPY, :C].view(torch.float32), entropy)
    if settled:
        one.emit(argmax.tolist())
        host.argmax = host.first_accepted = torch.full((C,), -1)
        if not one.finish:
            one.pending.append(tuple(argmax.tolist()))
            host.canvas = host.noise()
    heard = said(slots, slot)
    del heard["ENCODED"]
    assert abs(torch.tensor(heard.pop("MEAN_ENTROPY"), dtype=torch.int32).view(torch.float32).item() - mean) < 1e-6
    assert heard == {
        "DENOISED": 1,
        "SETTLED": settled,
        "FINISH": FINISHES.index(one.finish),
        "CANVAS": number,
        "STEP": step,
        "UNCHANGED": unchanged,
    }
    if one.finish:
        return
    for name, ours in ("CANVAS", one.canvas), ("STEP", one.step), ("STILL", one.still), ("WRITTEN", len(one.token_ids)):
        assert slots.numbers[slot, Number[name]] == ours
    assert slots.canvas[slot, :C].tolist() == host.canvas.tolist()
    assert slots.argmax[slot, :C].tolist() == host.argmax.tolist()
    assert slots.first_accepted[slot, :C].tolist() == host.first_accepted.tolist()
    text = one.prompt_ids + one.token_ids
    assert slots.numbers[slot, Number.TEXT] == len(text)
    assert slots.text[slot, : len(text)].tolist() == text


def step_of(slots: Slots, argmax: Tensor, entropy: float = 0.0) -> dict[str, int]:
    """One step of the only canvas, alone in its pass, that draws 20 and is given 30 as fresh tokens."""
    tiles = empty_tiles(3, len(slots.numbers))
    canvases_only(tiles, [0], C)
    drawn = torch.full((2 * ROWS,), 20, dtype=torch.int32)
    own = torch.cat([argmax, torch.zeros(2 * ROWS - C)]).int()
    advance(slots, tiles, torch.full((2 * ROWS,), entropy), own, drawn, drawn + 10)
    return said(slots, 0)


def test_the_end_of_a_turn_counts_only_within_the_room_that_is_left() -> None:
    slots = empty_slots(1)
    ended = torch.full((C,), 9)
    ended[6] = 3
    for max_new, finish in ((7, 1), (6, 2), (C, 1), (100, 1)):
        sit_down(slots, 0, max_steps=1, max_new=max_new)
        assert step_of(slots, ended)["FINISH"] == finish
        assert slots.numbers[0, Number.RUNNING] == 0
        assert slots.numbers[0, Number.WRITTEN] == min(max_new, C)
        assert slots.text[0, 10 : 10 + C].tolist() == ended.tolist()


def test_a_settled_canvas_becomes_text_and_the_next_one_is_laid_from_its_own_noise() -> None:
    slots = empty_slots(1)
    sit_down(slots, 0, key=99, max_steps=5, step=4, still=2, canvas=6, prompt=10, text=34, max_new=100, written=24)
    slots.canvas.fill_(50)
    heard = step_of(slots, torch.arange(10, 10 + C))
    assert (heard["SETTLED"], heard["FINISH"], heard["CANVAS"], heard["STEP"]) == (1, 0, 6, 5)
    keys, canvas, zero = key_words(slots, 0)[None], torch.tensor([7]), torch.zeros(1, 1, dtype=torch.int64)
    assert slots.canvas[0, :C].tolist() == noise.draws(keys, canvas, zero, C, 60)[0].flatten().tolist()
    assert (slots.canvas[0, C:] == 50).all()
    assert slots.text[0, 34:46].tolist() == list(range(10, 22))
    names = ["TEXT", "CANVAS", "STEP", "STILL", "WRITTEN", "RUNNING"]
    assert [int(slots.numbers[0, Number[name]]) for name in names] == [46, 7, 0, 0, 36, 1]
    assert (slots.argmax[0, :C] == -1).all() and (slots.first_accepted[0, :C] == -1).all()


def test_a_canvas_settles_when_its_argmax_stood_still_and_it_is_confident() -> None:
    slots = empty_slots(1)
    same = torch.full((C,), 9)
    sit_down(slots, 0, stability=2)
    heard = [step_of(slots, same, entropy) for entropy in (0.0, 0.0, 0.01, 0.004)]
    assert [step["UNCHANGED"] for step in heard] == [0, 1, 1, 1]
    assert [step["SETTLED"] for step in heard] == [0, 0, 0, 1]


def test_a_slot_without_a_tile_says_only_what_is_encoded_and_keeps_all_it_has() -> None:
    slots = empty_slots(2)
    sit_down(slots, 0)
    sit_down(slots, 1, encoded=10, chunks=1, step=3, still=2)
    slots.told.fill_(5)
    slots.frames[1].fill_(44)
    before = slots.numbers[1].clone()
    step_of(slots, torch.full((C,), 9))
    assert said(slots, 1) == {name.name: 10 * (name is Told.ENCODED) for name in Told}
    assert torch.equal(slots.numbers[1], before) and (slots.frames[1] == 44).all()


def test_all_they_make_lies_where_the_slots_lie() -> None:
    """On a GPU the twins are what kernels are held against: here they run where to name no device is to be nowhere."""
    slots, tiles = empty_slots(3, VOCAB), empty_tiles(9, 3)
    sit_down(slots, 0, prompt=30, text=30)
    sit_down(slots, 1, chunks=1, encoded=10, max_steps=1, max_new=90)
    rows = torch.arange(2 * ROWS, dtype=torch.int32)
    with torch.device("meta"):
        plan_tiles(slots, tiles, C, True)
        advance(slots, tiles, rows.float(), rows, rows, rows)
    assert slots.told[:, Told.SETTLED].tolist() == [0, 1, 0]
