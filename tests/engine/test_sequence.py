"""A prompt's way through its canvases: how it is cut, which tokens it takes, and why it ends."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.engine.sequence import Sequence, chunks_of
from dgbatch.records import Prompt, Settings

END = 9


def sequence(max_new_tokens: int = 8, end_ids: tuple[int, ...] = (END,)) -> Sequence:
    settings = Settings(max_new_tokens, 6, 0.1, 0.8, 0.4, 0.005, 1)
    return Sequence(Prompt("row-0", 0, (), 0), settings, [1, 2], frozenset(end_ids))


def test_a_sequence_begins_with_no_pages_no_place_and_nothing_generated() -> None:
    one, other = sequence(), sequence()
    assert (one.lease, one.slot, one.token_ids, one.canvas, one.finish) == (None, -1, [], 0, None)
    assert list(one.pending) == []
    assert one != other
    assert one.pending is not other.pending
    assert one.token_ids is not other.token_ids


def test_a_canvas_without_an_end_is_taken_whole_and_the_sequence_goes_on() -> None:
    one = sequence()
    one.emit([1, 2, 3, 4])
    assert (one.token_ids, one.finish, one.canvas) == ([1, 2, 3, 4], None, 1)


def test_the_turn_ends_at_the_first_end_token_and_the_rest_is_dropped() -> None:
    one = sequence()
    one.emit([1, END, 3, END])
    assert (one.token_ids, one.finish) == ([1, END], "end_of_turn")
    assert one.answer_ids == [1]


def test_any_of_several_end_tokens_ends_the_turn() -> None:
    one = sequence(end_ids=(7, END))
    one.emit([1, 7, END])
    assert (one.token_ids, one.finish) == ([1, 7], "end_of_turn")


@pytest.mark.parametrize(("limit", "canvases"), [(1, 1), (3, 1), (4, 1), (5, 2), (8, 2)])
def test_the_token_limit_is_exact_inside_a_canvas_and_across_canvases(limit: int, canvases: int) -> None:
    one = sequence(limit)
    while one.finish is None:
        one.emit([1, 2, 3, 4])
    assert len(one.token_ids) == limit
    assert (one.finish, one.canvas) == ("length", canvases)
    assert one.answer_ids == one.token_ids


def test_an_end_token_at_the_limit_is_an_end_of_turn() -> None:
    one = sequence(2)
    one.emit([1, END, 3])
    assert one.finish == "end_of_turn"


def test_an_end_token_past_the_limit_is_not_seen() -> None:
    one = sequence(2)
    one.emit([1, 2, END])
    assert (one.token_ids, one.finish) == ([1, 2], "length")


def test_steps_are_counted_per_canvas_and_over_all_of_them() -> None:
    one = sequence()
    for unchanged in (False, True, True):
        one.stepped(unchanged)
    assert (one.step, one.still, one.denoise_steps) == (3, 2, 3)
    one.emit([1, 2, 3, 4])
    assert (one.step, one.still, one.denoise_steps) == (0, 0, 3)
    one.stepped(False)
    assert (one.step, one.still, one.denoise_steps) == (1, 0, 4)


def test_a_change_sets_the_stillness_back() -> None:
    one = sequence()
    for unchanged, still in ((True, 1), (True, 2), (False, 0), (True, 1)):
        one.stepped(unchanged)
        assert one.still == still


def test_a_stop_string_cuts_and_leaves_no_end_token_to_drop() -> None:
    one = sequence()
    one.emit([1, 2, 3, END])
    one.stop_at(2)
    assert (one.token_ids, one.answer_ids, one.finish) == ([1, 2], [1, 2], "stop")


@given(canvases=st.lists(st.lists(st.integers(0, 12), min_size=4, max_size=4), min_size=3), limit=st.integers(1, 12))
def test_the_tokens_are_a_prefix_of_all_canvases_up_to_end_or_limit(canvases: list[list[int]], limit: int) -> None:
    one = sequence(limit)
    for canvas in canvases:
        if one.finish is None:
            one.emit(canvas)
    flat = [token for canvas in canvases for token in canvas]
    cut = flat.index(END) + 1 if END in flat else len(flat)
    assert one.token_ids == flat[: min(cut, limit)]
    assert one.finish == ("end_of_turn" if cut <= limit and END in flat else "length")


@pytest.mark.parametrize(
    ("ids", "chunks"),
    [
        ([], []),
        ([1], [(1,)]),
        ([1, 2, 3], [(1, 2, 3)]),
        ([1, 2, 3, 4], [(1, 2, 3), (4,)]),
        ([1, 2, 3, 4, 5, 6], [(1, 2, 3), (4, 5, 6)]),
    ],
)
def test_a_text_is_cut_at_every_multiple_of_the_canvas_length(ids: list[int], chunks: list[tuple[int, ...]]) -> None:
    assert list(chunks_of(ids, 3)) == chunks


@given(ids=st.lists(st.integers(0, 3), max_size=20), more=st.lists(st.integers(0, 3)), length=st.integers(1, 6))
def test_texts_that_begin_alike_are_cut_alike(ids: list[int], more: list[int], length: int) -> None:
    """What sharing prefixes relies on: whole chunks depend on nothing that comes after them."""
    chunks, longer = list(chunks_of(ids, length)), list(chunks_of(ids + more, length))
    assert list(chain(*chunks)) == ids
    assert [len(chunk) for chunk in chunks[:-1]] == [length] * (len(chunks) - 1 if chunks else 0)
    whole = len(ids) // length
    assert longer[:whole] == chunks[:whole]
