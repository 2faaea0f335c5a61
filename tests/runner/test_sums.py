"""Sums of commit records: the same in whatever order they are added, and as they were when they are read again."""

from __future__ import annotations

import json
from functools import reduce
from operator import add
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.records import Completion
from dgbatch.runner.sums import BOUNDS, NOTHING, Histogram, Sums


def completion(tokens: int = 4, steps: tuple[int, ...] = (2,), seconds: float = 0.5, thinking: int = 0) -> Completion:
    return Completion(
        id="r", sample=0, text="", thinking=None, finish_reason="length", token_ids=(7,) * tokens, prompt_tokens=3,
        canvases=len(steps), denoise_steps=sum(steps), noise_key=1, revised_tokens=tokens // 2,
        thinking_tokens=thinking, canvas_steps=steps, prefill_s=seconds / 4, denoise_s=seconds * 3 / 4,
    )  # fmt: skip


completions = st.builds(
    completion,
    st.integers(0, 300),
    st.lists(st.integers(1, 100), min_size=1, max_size=4).map(tuple),
    st.floats(0, 2000),
    st.integers(0, 9),
)
codes = st.lists(st.sampled_from(["prompt_too_long", "null_prompt", "template_error"]), max_size=4)
sums = st.builds(Sums.of, st.lists(completions, max_size=6), codes)


def test_sums_of_rows_are_counted_where_they_belong() -> None:
    made = Sums.of([completion(8, (1, 3), 0.2, thinking=2), completion(3, (64,), 2e6)], ["b", "a", "b"])
    assert (made.revised_tokens, made.thinking_tokens, made.quarantined) == (5, 2, (("a", 1), ("b", 2)))
    assert (made.steps_per_canvas.count, made.steps_per_canvas.sum) == (3, 68)
    assert (made.tokens_per_forward.count, made.tokens_per_forward.sum) == (2, 8 / 4 + 0.046875)
    assert made.row_duration_s.counts == (0, 0, 0, 0, 1, *[0] * 11, 1)
    assert made.row_duration_s.sum == 2_000_000.2


def test_a_value_on_a_bound_is_below_it_and_one_beyond_all_has_a_bucket() -> None:
    assert Histogram.of((1, 2, 4), [1, 1.5, 2, 4, 4.1]).counts == (1, 2, 1, 1)
    assert Histogram.of((1, 2), []) == Histogram()


@given(st.lists(sums, max_size=6), st.randoms())
def test_sums_are_the_same_in_whatever_order_they_come(parts: list[Sums], dice: Any) -> None:
    shuffled = list(parts)
    dice.shuffle(shuffled)
    assert reduce(add, shuffled, NOTHING) == reduce(add, parts, NOTHING)


@given(st.lists(completions, max_size=5), st.lists(completions, max_size=5), codes, codes)
def test_sums_of_two_parts_are_those_of_the_whole(some, others, some_codes, other_codes) -> None:
    assert Sums.of(some, some_codes) + Sums.of(others, other_codes) == Sums.of(
        [*some, *others], some_codes + other_codes
    )


@given(sums, sums)
def test_what_was_added_can_be_taken_away(kept: Sums, gone: Sums) -> None:
    assert (kept + gone) - gone == kept
    assert kept - kept == NOTHING


@given(sums)
def test_sums_are_as_they_were_when_they_are_read_again(made: Sums) -> None:
    assert Sums.from_json(json.loads(json.dumps(made.to_json()))) == made
    assert Sums.unpacked(made.packed()) == made
    assert bool(made) == bool(made.to_json()) == bool(made.packed())


def test_sums_are_small_and_readable() -> None:
    assert Sums.of([completion(8, (1, 3), 0.2)], ["a"]).to_json() == {
        "revised_tokens": 4,
        "quarantined": {"a": 1},
        "steps_per_canvas": {"sum": 4.0, "upto": {"1": 1, "3": 1}},
        "tokens_per_forward": {"sum": 2.0, "upto": {"2": 1}},
        "row_duration_s": {"sum": 0.2, "upto": {"0.25": 1}},
    }
    assert NOTHING.to_json() == {}


def test_a_histogram_with_other_bounds_goes_into_the_buckets_there_are() -> None:
    body = {"steps_per_canvas": {"sum": 20.0, "upto": {"5": 2, "10": 1, "above": 1}}}
    counts = dict(
        zip((*BOUNDS["steps_per_canvas"], "above"), Sums.from_json(body).steps_per_canvas.counts, strict=True)
    )
    assert {bound: count for bound, count in counts.items() if count} == {6: 2, 12: 1, "above": 1}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"rows": 3}, "unknown keys: rows"),
        ({"revised_tokens": -1}, "not whole numbers"),
        ({"thinking_tokens": 1.5}, "not whole numbers"),
        ({"quarantined": {"a": True}}, "not whole numbers"),
        ({"row_duration_s": {"sum": 1.0, "upto": {"1": 0}}}, "no count"),
        ({"row_duration_s": {"sum": 1.0, "upto": {}}}, "other keys"),
        ({"row_duration_s": {"sum": 1.0, "upto": {"1": 1}, "more": 1}}, "other keys"),
        ({"row_duration_s": {"sum": 1.0, "upto": {"x": 1}}}, "could not convert"),
    ],
)
def test_what_are_no_sums_is_refused(body: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Sums.from_json(body)
