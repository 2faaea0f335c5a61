"""The loop that runs ahead gives the rows of the plain one, token for token and number for number."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgbatch.demo.prompts import PROMPTS_PATH
from dgbatch.engine.checkpoint import resolve
from dgbatch.engine.device_step import ahead as ahead_module
from dgbatch.engine.device_step import told
from dgbatch.engine.engine import Engine
from dgbatch.engine.generation_config import read_generation_config
from dgbatch.engine.kernels.tables import Number
from dgbatch.engine.kv_cache import page_bytes
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.engine.weights import load_transformer
from dgbatch.records import Completion, EngineConfig, Generation, Prompt
from tests.engine import tiny
from tests.engine.device_step.loops import assert_same, counted, plain_and_ahead, some

PROMPTS = some(9)
LONG = [tiny.prompt(60 + number, "ab" * number, max_new_tokens=8) for number in (3, 11, 19, 28)]


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("canvases", [1, 2, 3, 8])
def test_prompts_get_the_rows_of_the_plain_loop(
    model: Transformer, tokenizer: Tokenizer, canvases: int, fold: bool
) -> None:
    plain, ahead = plain_and_ahead(model, tokenizer, canvases=canvases, fold=fold)
    rows = assert_same(plain.generate(PROMPTS), ahead.generate(PROMPTS))
    assert len({one.token_ids for one in rows.values()}) == len(PROMPTS)
    assert counted(ahead) == counted(plain)


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_how_far_the_host_runs_ahead_changes_no_row(model: Transformer, tokenizer: Tokenizer, depth: int) -> None:
    prompts = [*PROMPTS, *LONG, *some(3, max_denoising_steps=1, max_new_tokens=40)]
    prompts = [replace(prompt, id=f"{number}-{prompt.id}") for number, prompt in enumerate(prompts)]
    plain, ahead = plain_and_ahead(model, tokenizer, depth=depth, canvases=3)
    assert_same(plain.generate(prompts), ahead.generate(prompts))
    assert counted(ahead) == counted(plain)


def test_a_host_that_does_not_run_ahead_takes_the_very_steps_of_the_plain_loop(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    plain, ahead = plain_and_ahead(model, tokenizer, depth=0, canvases=3)
    assert_same(plain.generate(PROMPTS + LONG), ahead.generate(PROMPTS + LONG))
    assert counted(ahead) == counted(plain)
    for name in ("passes", "steps", "tiles", "shared_tokens"):
        assert getattr(ahead.stats, name) == getattr(plain.stats, name), name


@pytest.mark.parametrize("prefill_tiles", [1, 2, 4])
@pytest.mark.parametrize("share_prefixes", [True, False])
def test_long_prompts_go_in_chunk_by_chunk(
    model: Transformer, tokenizer: Tokenizer, prefill_tiles: int, share_prefixes: bool
) -> None:
    plain, ahead = plain_and_ahead(
        model, tokenizer, canvases=3, prefill_tiles=prefill_tiles, share_prefixes=share_prefixes
    )
    rows = assert_same(plain.generate(LONG), ahead.generate(LONG))
    assert max(one.prompt_tokens for one in rows.values()) > 10 * tiny.CANVAS
    assert counted(ahead) == counted(plain)
    assert (ahead.stats.shared_tokens > 0) == share_prefixes


def test_samples_of_one_prompt_compute_it_once(model: Transformer, tokenizer: Tokenizer) -> None:
    first = tiny.prompt(3, "abc " * 12)
    samples = [replace(first, sample=number, noise_key=number + 7) for number in range(5)]
    plain, ahead = plain_and_ahead(model, tokenizer, canvases=3)
    rows = assert_same(plain.generate(samples), ahead.generate(samples))
    assert ahead.stats.shared_tokens == 4 * rows[first.id].prompt_tokens


def test_prefixes_that_were_kept_are_taken_over(model: Transformer, tokenizer: Tokenizer) -> None:
    plain, ahead = plain_and_ahead(model, tokenizer, canvases=2)
    for _ in range(2):
        assert_same(plain.generate(LONG), ahead.generate(LONG))
    assert ahead.stats.shared_tokens > sum(map(len, (LONG, LONG)))


def test_settings_are_each_prompts_own(model: Transformer, tokenizer: Tokenizer) -> None:
    """Also where they are put into a slot after another's: tokens that one may not write, its neighbour may."""
    hot = {"temperature_start": 5.0, "temperature_end": 4.0}
    odd: list[dict[str, Any]] = [
        {"greedy": True, **hot, "entropy_bound": 1e9, "confidence": 0.0},
        {"suppress_tokens": tuple(range(8, 30))},
        {"max_new_tokens": 5, "max_denoising_steps": 2, "entropy_bound": 9.0, **hot},
        {"suppress_tokens": (tiny.CHANNEL_START, tiny.CHANNEL_END), "max_new_tokens": 24},
        {"max_denoising_steps": 1, "max_new_tokens": 31},
        {"confidence": 9.0, "stability": 2, "max_denoising_steps": 30, "entropy_bound": 3.0},
        {"confidence": 9.0, "stability": 0, "max_denoising_steps": 10**12, "max_new_tokens": 20},
    ]
    prompts = [
        replace(tiny.prompt(number), generation=Generation(**odd[number % len(odd)] if number % 3 else {}))
        for number in range(16)
    ]
    plain, ahead = plain_and_ahead(model, tokenizer, canvases=2)
    rows = assert_same(plain.generate(prompts), ahead.generate(prompts))
    assert counted(ahead) == counted(plain)
    assert not {*rows["row-1"].token_ids} & {*range(8, 30)} or 1 % len(odd) != 1
    assert any(len({*one.canvas_steps}) > 1 for one in rows.values())  # some settled by themselves


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_turn_ends_where_the_device_says(model: Transformer, tokenizer: Tokenizer, depth: int) -> None:
    """With an ordinary letter as the end of a turn, some end in their first canvas, some later, some at their limit."""
    ends = (tiny.VOCABULARY["a"], tiny.VOCABULARY["x"])
    prompts = [tiny.prompt(number, max_new_tokens=29) for number in range(12)]
    plain, ahead = plain_and_ahead(model, tokenizer, end_ids=ends, depth=depth, canvases=3)
    rows = assert_same(plain.generate(prompts), ahead.generate(prompts))
    assert counted(ahead) == counted(plain)
    assert {one.finish_reason for one in rows.values()} == {"end_of_turn", "length"}
    assert len({one.canvases for one in rows.values()}) > 2


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_stop_string_is_found_late_and_what_came_after_it_is_thrown_away(
    model: Transformer, tokenizer: Tokenizer, depth: int
) -> None:
    free = plain_and_ahead(model, tokenizer, canvases=2)[0]
    whole = {one.id: one for one in free.generate(some(6, max_new_tokens=40)) if isinstance(one, Completion)}
    prompts = []
    for prompt in some(6, max_new_tokens=40):
        text = whole[prompt.id].text
        stop = text[len(text) // 3 :][:2]
        prompts.append(replace(prompt, generation=replace(prompt.generation, stop=(stop, "not this one"))))
    plain, ahead = plain_and_ahead(model, tokenizer, depth=depth, canvases=2)
    rows = assert_same(plain.generate(prompts), ahead.generate(prompts))
    assert sum(one.finish_reason == "stop" for one in rows.values()) > 3
    assert counted(ahead) == counted(plain)
    assert_same(plain.generate(some(6)), ahead.generate(some(6)))  # the slots are as good as new


def test_the_slot_of_a_stopped_sequence_is_still_while_others_go_on(model: Transformer, tokenizer: Tokenizer) -> None:
    """Its pages are others' by then: a slot that went on would write into them."""
    (whole,) = plain_and_ahead(model, tokenizer, canvases=1)[0].generate([tiny.prompt(1, max_new_tokens=56)])
    assert isinstance(whole, Completion)
    stopped = tiny.prompt(1, max_new_tokens=56, stop=(whole.text[:1],), confidence=9.0)
    plain, ahead = plain_and_ahead(model, tokenizer, canvases=2)
    prompts = [stopped, tiny.prompt(2, max_new_tokens=24)]
    rows = assert_same(plain.generate(prompts), ahead.generate(prompts))
    assert (rows["row-1"].finish_reason, rows["row-2"].tokens) == ("stop", 24)
    slots = ahead.loop.state.slots  # type: ignore[union-attr]
    assert slots.numbers[:, Number.RUNNING].tolist() == [0, 0]
    assert slots.numbers[0, Number.WRITTEN] < 56


def test_films_show_the_same(model: Transformer, tokenizer: Tokenizer) -> None:
    prompts = [replace(prompt, film=number != 1) for number, prompt in enumerate(some(5, max_new_tokens=23))]
    plain, ahead = plain_and_ahead(model, tokenizer, canvases=2)
    rows = assert_same(plain.generate(prompts), ahead.generate(prompts))
    assert [one.film is None for one in (rows["row-1"], rows["row-2"])] == [True, False]


@pytest.mark.parametrize("pages", [9, 12, 20])
def test_with_little_memory_prompts_wait_and_get_the_same_rows(
    model: Transformer, tokenizer: Tokenizer, pages: int
) -> None:
    full, sliding = page_bytes(model.config, torch.float32)
    plain, _ = plain_and_ahead(model, tokenizer, canvases=4)
    _, ahead = plain_and_ahead(model, tokenizer, canvases=4, kv_bytes=pages * (full + sliding))
    assert ahead.pages.full.size < plain.pages.full.size // 2
    prompts = some(9, max_new_tokens=24)
    for _ in range(2):
        assert_same(plain.generate(prompts), ahead.generate(prompts))
    assert ahead.pages.full.reserved == ahead.pages.sliding.reserved == 0


def test_what_no_memory_can_hold_and_no_context_is_rejected_alike(model: Transformer, tokenizer: Tokenizer) -> None:
    full, sliding = page_bytes(model.config, torch.float32)
    prompts = [tiny.prompt(50, "a" * 45), tiny.prompt(51, "a" * 200), tiny.prompt(1, "a", max_new_tokens=8)]
    plain, ahead = plain_and_ahead(model, tokenizer, canvases=2, kv_bytes=8 * (full + sliding))
    codes = [
        {each.id: getattr(each, "error_code", "done") for each in engine.generate(prompts)} for engine in (plain, ahead)
    ]
    assert codes == [{"row-50": "out_of_kv_memory", "row-51": "prompt_too_long", "row-1": "done"}] * 2


def test_a_generator_that_is_dropped_leaves_its_slots_still(model: Transformer, tokenizer: Tokenizer) -> None:
    plain, ahead = plain_and_ahead(model, tokenizer, canvases=3)
    results = ahead.generate([*some(1, max_new_tokens=8), *some(9, max_new_tokens=56)[1:]])
    next(results)  # the others have just begun
    results.close()
    assert (ahead.pages.full.reserved, ahead.pages.sliding.reserved) == (0, 0)
    assert_same(plain.generate(PROMPTS[:2]), ahead.generate(PROMPTS[:2]))  # one slot of three gets nobody
    assert ahead.loop.state.slots.numbers[:, Number.RUNNING].tolist() == [0, 0, 0]  # type: ignore[union-attr]


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_company_order_pause_or_setting_tells_the_loops_apart(
    model: Transformer, tokenizer: Tokenizer, data: st.DataObject
) -> None:
    chosen = st.fixed_dictionaries(
        {
            "max_new_tokens": st.integers(1, 33),
            "max_denoising_steps": st.integers(1, 8),
            "confidence": st.sampled_from([0.0, 0.5, 3.0]),
            "stability": st.integers(0, 2),
            "stop": st.sampled_from([(), ("a",), ("é", "1")]),
        }
    )
    prompts: list[Prompt | None] = [
        tiny.prompt(number, "b" * data.draw(st.integers(0, 40)), **data.draw(chosen)) for number in range(5)
    ]
    for place in data.draw(st.lists(st.integers(0, 5), max_size=3)):
        prompts.insert(place, None)
    config = {
        "canvases": data.draw(st.integers(1, 4)),
        "prefill_tiles": data.draw(st.integers(1, 4)),
        "fold": data.draw(st.booleans()),
    }
    plain, ahead = plain_and_ahead(
        model, tokenizer, end_ids=(tiny.VOCABULARY["z"],), depth=data.draw(st.integers(0, 3)), **config
    )
    assert_same(plain.generate(prompts), ahead.generate(prompts))
    assert counted(ahead) == counted(plain)


@pytest.fixture(scope="module")
def demo() -> tuple[Engine, Engine]:
    folder = resolve("demo")
    defaults, end_ids = read_generation_config(folder)
    return plain_and_ahead(
        load_transformer(folder, "cpu", torch.float32), Tokenizer.load(folder), defaults, tuple(end_ids), canvases=3
    )


def test_the_demo_checkpoint_solves_its_puzzles_alike(demo: tuple[Engine, Engine]) -> None:
    """A trained model: canvases settle by themselves after few steps, and turns end."""
    table = pq.read_table(PROMPTS_PATH).slice(0, 6).to_pylist()
    prompts = [
        Prompt(row["id"], 0, ({"role": "user", "content": row["prompt"]},), number * 77 + 5, film=number == 2)
        for number, row in enumerate(table)
    ]
    plain, ahead = demo
    rows = assert_same(plain.generate(prompts), ahead.generate(prompts))
    assert counted(ahead) == counted(plain)
    assert sum(rows[row["id"]].text == row["answer"] for row in table) >= 4
    assert {one.finish_reason for one in rows.values()} == {"end_of_turn"}
    assert max(max(one.canvas_steps) for one in rows.values()) < ahead.defaults.max_denoising_steps


def test_logits_are_those_of_plain_passes_beside_the_loop(model: Transformer, tokenizer: Tokenizer) -> None:
    plain, ahead = plain_and_ahead(model, tokenizer, canvases=2)
    before = list(ahead.generate(PROMPTS[:2]))
    ids, canvas = [20, 21, 22] * 9, [23] * tiny.CANVAS
    assert torch.equal(ahead.denoise_logits(ids, canvas), plain.denoise_logits(ids, canvas))
    assert_same(before, ahead.generate(PROMPTS[:2]))


def test_an_engine_that_runs_ahead_measures_itself_too(model: Transformer, tokenizer: Tokenizer) -> None:
    auto = Engine(model, tokenizer, EngineConfig(), tiny.SETTINGS, [], _ahead=True)
    assert [point.canvases for point in auto.curve][:2] == [1, 2]
    assert all(point.seconds > 0 for point in auto.curve)
    assert (auto.stats.passes, sum(auto.stats.seconds.values())) == (0, 0.0)
    plain, _ = plain_and_ahead(model, tokenizer, canvases=2)
    assert_same(plain.generate(PROMPTS[:3]), auto.generate(PROMPTS[:3]))


def test_seconds_are_in_phases_while_steps_overlap(model: Transformer, tokenizer: Tokenizer) -> None:
    _, ahead = plain_and_ahead(model, tokenizer, canvases=3)
    began = time.perf_counter()
    for _ in ahead.generate(PROMPTS):
        time.sleep(0.01)
    wall_s, seconds = time.perf_counter() - began, ahead.stats.seconds
    # what comes last is handed over when no step is left that could wait for it
    assert sum(seconds.values()) == pytest.approx(wall_s - 0.01, rel=0.1)
    assert seconds["wait_output"] >= 0.07
    assert seconds["denoise"] > seconds["prefill"] > 0
    assert ahead.stats.peak_bytes > 0


class Moments:
    """Events that remember the order in which the host met them."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []
        self.recorded = 0

    def make(self) -> Any:
        log, owner = self.log, self

        class Moment:
            number = -1

            def record(self) -> None:
                self.number = owner.recorded
                owner.recorded += 1
                log.append(("launched", self.number))

            def synchronize(self) -> None:
                log.append(("read", self.number))

        return Moment()


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_host_launches_the_next_step_before_it_reads_what_the_last_one_said(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    moments = Moments()
    exact = told.make_saying
    monkeypatch.setattr(ahead_module, "make_saying", lambda state: replace(exact(state), ended=moments.make()))
    _, ahead = plain_and_ahead(model, tokenizer, depth=depth, canvases=2)
    assert len(list(ahead.generate(some(4)))) == 4
    launched = {number: place for place, (what, number) in enumerate(moments.log) if what == "launched"}
    read = {number: place for place, (what, number) in enumerate(moments.log) if what == "read"}
    last = max(launched)
    assert sorted(read) == sorted(launched)[: last + 1 - depth]  # the last ones are about nobody any more
    assert all(read[a] < read[b] for a, b in pairwise(sorted(read)))
    for number in range(last + 1 - depth):
        assert launched[number + depth] < read[number]
        assert number + depth + 1 > last or read[number] < launched[number + depth + 1]
