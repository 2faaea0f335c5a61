"""What the host writes into slots: all orders of a step are one copy, and touch what they are about."""

from __future__ import annotations

import pytest
import torch

from dgbatch.engine.device_step.grants import Grant
from dgbatch.engine.device_step.orders import Orders, bits_of, signed
from dgbatch.engine.device_step.state import ALIGNED, State, make_state, said_parts
from dgbatch.engine.kernels.tables import Number
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.sequence import Sequence
from tests.engine import tiny

CONFIG = ModelConfig.from_dict(tiny.config_dict())
CPU = torch.device("cpu")


@pytest.fixture
def state() -> State:
    made = make_state(CONFIG, CPU, torch.float32, 3, 4, (10, 7), {5, 2})
    made.arena.fill_(-7)
    return made


def sequence(slot: int, **settings: object) -> Sequence:
    one = Sequence(tiny.prompt(3), tiny.settings(**settings), [4, 5, 6, 7, 8, 9, 10, 11, 12], frozenset())
    one.slot = slot
    return one


def test_parts_of_the_arena_are_aligned_and_none_lies_over_another(state: State) -> None:
    slots = state.slots
    parts = [slots.numbers, slots.reals, slots.text, slots.pages, slots.canvas, slots.argmax, slots.first_accepted]
    ends = 0
    for part in parts:
        first = part.storage_offset()
        assert first % ALIGNED == 0 and first >= ends
        assert part.is_contiguous()
        assert part.data_ptr() == state.arena.data_ptr() + 4 * first
        ends = first + part.numel()
    assert ends <= len(state.arena)


def test_what_is_said_is_told_and_frames_in_one_tensor(state: State) -> None:
    state.slots.told[1, 2] = 77
    state.slots.frames[2, 4, 63] = 88
    told, frames = said_parts(state.said.clone(), 3, 64)
    assert (told[1, 2], frames[2, 4, 63]) == (77, 88)
    assert (told.shape, frames.shape) == ((3, 8), (3, 5, 64))


def test_pages_of_canvases_come_on_top_and_no_id_stands_for_no_end() -> None:
    state = make_state(CONFIG, CPU, torch.float32, 3, 4, (10, 7), ())
    sliding, full = state.pools
    assert (len(full), len(sliding)) == (13, 10)
    assert state.slots.end_ids.tolist() == [-1]
    assert state.tiles(2).table.shape == (2, 8)
    assert state.tiles(2).table.data_ptr() == state.tiles(8).table.data_ptr()


def test_a_sequence_that_sits_down_finds_nothing_of_the_one_before(state: State) -> None:
    orders = Orders(state, ())
    noise = [*range(20, 28)]
    orders.seat(sequence(1, max_new_tokens=40, greedy=True, stability=3, confidence=0.25), noise)
    assert (state.arena == -7).all()  # nothing moves before it is sent
    orders.send()
    slots = state.slots
    said = {number.name: int(slots.numbers[1, number]) for number in Number}
    key = tiny.prompt(3).noise_key
    assert said == {
        "RUNNING": 1, "PROMPT": 9, "TEXT": 9, "ENCODED": 0, "CHUNKS": 0, "GRANTED": 0, "CANVAS": 0, "STEP": 0,
        "STILL": 0, "WRITTEN": 0, "KEY_LOW": signed(key & 0xFFFFFFFF), "KEY_HIGH": signed(key >> 32), "MAX_STEPS": 6,
        "STABILITY": 3, "GREEDY": 1, "MAX_NEW": 40,
    }  # fmt: skip
    assert slots.reals[1].tolist() == torch.tensor([0.8, 0.4, 0.1, 0.25]).tolist()
    assert slots.text[1, :10].tolist() == [*range(4, 13), -7]
    assert slots.canvas[1].tolist() == noise + [0] * 56
    assert slots.argmax[1].unique().tolist() == slots.first_accepted[1].unique().tolist() == [-1]
    for tensor in (slots.numbers, slots.text, slots.canvas, slots.argmax):
        assert (tensor[[0, 2]] == -7).all()


def test_a_grant_is_written_where_its_chunks_begin(state: State) -> None:
    orders = Orders(state, ())
    orders.grant(Grant(slot=2, first=3, pages=[(4, 1), (6, 0)], granted=5, encoded=(3, 24)))
    orders.grant(Grant(slot=0, first=0, pages=[(9, 8)], granted=1, encoded=None))
    orders.send()
    slots = state.slots
    assert slots.pages[:, 2, 2:6].tolist() == [[-7, 4, 6, -7], [-7, 1, 0, -7]]
    assert slots.pages[:, 0, :2].tolist() == [[9, -7], [8, -7]]
    columns = [Number.GRANTED, Number.CHUNKS, Number.ENCODED]
    assert slots.numbers[2, columns].tolist() == [5, 3, 24]
    assert slots.numbers[0, columns].tolist() == [1, -7, -7]  # how far it is only the device knows
    assert (slots.numbers[2] == -7).sum() == 13


def test_of_two_orders_for_one_place_the_last_one_counts(state: State) -> None:
    orders = Orders(state, ())
    orders.stop(1)
    orders.seat(sequence(1), [0] * 8)
    orders.seat(sequence(2), [0] * 8)
    orders.stop(2)
    orders.send()
    assert state.slots.numbers[:, Number.RUNNING].tolist() == [-7, 1, 0]
    state.arena.fill_(-7)
    orders.send()
    assert (state.arena == -7).all()  # and none is sent twice


def test_what_a_prompt_may_not_write_its_successor_may(state: State) -> None:
    orders = Orders(state, (0, 50))

    def banned(slot: int) -> list[int]:
        return (state.slots.allowed[slot] == 0).nonzero().flatten().tolist()

    assert [banned(slot) for slot in range(3)] == [[0, 50]] * 3
    orders.seat(sequence(1, suppress_tokens=(7, 3)), [0] * 8)
    orders.send()
    assert [banned(slot) for slot in range(3)] == [[0, 50], [0, 3, 7, 50], [0, 50]]
    orders.seat(sequence(1, suppress_tokens=(4,)), [0] * 8)
    orders.send()
    assert banned(1) == [0, 4, 50]
    orders.seat(sequence(1), [0] * 8)
    orders.send()
    assert banned(1) == [0, 50]


def test_words_keep_the_bits_of_what_they_stand_for() -> None:
    assert [signed(word) for word in (0, 1, 2**31 - 1, 2**31, 2**32 - 1)] == [0, 1, 2**31 - 1, -(2**31), -1]
    assert torch.tensor(bits_of([0.1, -2.0]), dtype=torch.int32).view(torch.float32).tolist() == [
        torch.tensor(0.1).item(),
        -2.0,
    ]


def test_numbers_too_large_for_a_word_are_as_large_as_one_is(state: State) -> None:
    orders = Orders(state, ())
    orders.seat(sequence(0, max_denoising_steps=10**12, stability=2**40, entropy_bound=1e300), [0] * 8)
    orders.send()
    assert state.slots.numbers[0, [Number.MAX_STEPS, Number.STABILITY]].tolist() == [2**31 - 1] * 2
    assert state.slots.reals[0, 2] == float("inf")
