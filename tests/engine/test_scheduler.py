"""Which prompts are in flight: never too many, none left out, none waiting for another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.engine.scheduler import Scheduler
from dgbatch.records import Prompt
from tests.engine import tiny


def admitted(scheduler: Scheduler) -> list[str]:
    return [prompt.id for prompt in scheduler.admit()]


def prompts(count: int) -> list[Prompt]:
    return [tiny.prompt(number) for number in range(count)]


def test_prompts_fill_the_free_places_in_order() -> None:
    scheduler = Scheduler(prompts(5), canvases=3)
    assert admitted(scheduler) == ["row-0", "row-1", "row-2"]
    assert admitted(scheduler) == []
    scheduler.retire()
    assert admitted(scheduler) == ["row-3"]
    assert not scheduler.done


def test_it_is_done_when_the_source_is_empty_and_the_last_prompt_left() -> None:
    scheduler = Scheduler(prompts(1), canvases=2)
    assert admitted(scheduler) == ["row-0"]
    assert not scheduler.done
    scheduler.retire()
    assert scheduler.done


def test_no_prompts_at_all_is_done_after_asking_once() -> None:
    scheduler = Scheduler([], canvases=2)
    assert not scheduler.done
    assert admitted(scheduler) == []
    assert scheduler.done


def test_none_means_not_now_and_the_source_is_asked_again_later() -> None:
    scheduler = Scheduler([None, tiny.prompt(0), None, tiny.prompt(1)], canvases=4)
    assert [admitted(scheduler) for _ in range(3)] == [[], ["row-0"], ["row-1"]]


def test_a_full_house_asks_for_nothing() -> None:
    asked = []

    def source() -> Iterator[Prompt]:
        for one in prompts(9):
            asked.append(one.id)
            yield one

    scheduler = Scheduler(source(), canvases=2)
    admitted(scheduler)
    admitted(scheduler)
    assert asked == ["row-0", "row-1"]


def test_an_exhausted_source_is_not_asked_again() -> None:
    source = iter([tiny.prompt(0)])
    scheduler = Scheduler(source, canvases=2)
    admitted(scheduler)
    scheduler.retire()
    assert scheduler.done
    assert admitted(scheduler) == []


def test_a_place_freed_while_admitting_is_filled_in_the_same_round() -> None:
    """A prompt that is rejected on admission must not cost its place a denoising step."""
    scheduler = Scheduler(prompts(4), canvases=2)
    seen = []
    for one in scheduler.admit():
        seen.append(one.id)
        if one.id == "row-0":
            scheduler.retire()
    assert seen == ["row-0", "row-1", "row-2"]


def test_an_error_of_the_source_comes_through() -> None:
    def source() -> Iterator[Prompt]:
        yield tiny.prompt(0)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        admitted(Scheduler(source(), canvases=4))


@given(
    canvases=st.integers(1, 6),
    source=st.lists(st.booleans(), max_size=30),
    leaving=st.lists(st.integers(0, 6), max_size=60),
)
def test_every_prompt_is_admitted_once_and_never_more_than_fit(
    canvases: int, source: list[bool], leaving: list[int]
) -> None:
    expected = [f"row-{number}" for number, ready in enumerate(source) if ready]
    scheduler = Scheduler([tiny.prompt(n) if ready else None for n, ready in enumerate(source)], canvases)
    seen, in_flight, turns = [], 0, iter(leaving)
    while not scheduler.done:
        new = admitted(scheduler)
        seen += new
        in_flight += len(new)
        assert in_flight <= canvases
        for _ in range(min(in_flight, next(turns, canvases))):
            scheduler.retire()
            in_flight -= 1
    assert seen == expected
