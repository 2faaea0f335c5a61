from __future__ import annotations

from math import log2

from hypothesis import given
from hypothesis import strategies as st

from dgbatch.runner.poison import MOST_POISON, Blame, Search

BOOM = Blame("worker_killed", "boom")
BEFORE = Blame("worker_killed", "before")


def hunt(search: Search, deadly: set[int]) -> tuple[str, list[range]]:
    """Try what the search says until the whole shard comes through or is given up: its fate, and the probes."""
    probes: list[range] = []
    search.start()
    while True:
        probe = search.probe
        if probe is not None:
            probes.append(probe)
        if (set(probe or range(search.first, search.stop)) - set(search.poison)) & deadly:
            if search.died(BOOM) == "given_up":
                return "given_up", probes
        elif probe is None:
            return "kept", probes
        else:
            search.survived()


def test_half_that_kills_is_halved_until_one_row_is_alone():
    search = Search(0, 8)
    assert hunt(search, {2}) == ("kept", [range(4), range(2), range(2, 3), range(2, 3)])
    assert search.poison == {2: BOOM}


def test_last_row_is_tried_alone_before_it_is_blamed():
    assert hunt(Search(0, 8), {7})[1] == [range(4), range(4, 6), range(6, 7), range(7, 8), range(7, 8)]


def test_next_search_begins_behind_the_row_that_was_found():
    search = Search(0, 8)
    assert hunt(search, {1, 6}) == (
        "kept",
        [
            *(range(4), range(2), range(1), range(1, 2), range(1, 2)),
            *(range(2, 5), range(5, 6), range(6, 7), range(6, 7)),
        ],
    )
    assert list(search.poison) == [1, 6]


def test_shard_of_one_row_needs_two_deaths():
    assert hunt(Search(0, 1), {0}) == ("kept", [range(1), range(1)])


def test_row_that_died_alone_once_and_then_came_through_is_innocent():
    search = Search(0, 2)
    search.start()
    assert search.died(BOOM) == "again"
    assert search.probe == range(1)
    search.survived()
    assert (search.probe, search.poison) == (range(1, 2), {})
    assert [search.died(BOOM), search.died(BOOM)] == ["again", "poisoned"]
    assert search.poison == {1: BOOM}


def test_shard_of_which_no_part_kills_is_tried_once_more_whole():
    search = Search(0, 4)
    search.start()
    while search.probe:
        search.survived()
    assert not search.poison
    assert search.died(BOOM) == "given_up"


def test_search_that_finds_nothing_more_keeps_what_it_found():
    search = Search(0, 4)
    search.start()
    for probe in (range(2), range(1), range(1)):
        assert search.probe == probe
        search.died(BOOM)
    assert search.poison == {0: BOOM}
    assert search.died(BOOM) == "searching"
    while search.probe:
        search.survived()
    assert search.died(BOOM) == "given_up"
    assert search.poison == {0: BOOM}


def test_too_many_poison_rows_are_not_the_rows_fault():
    search = Search(0, 64)
    fate, _ = hunt(search, set(range(64)))
    assert fate == "given_up"
    assert len(search.poison) == MOST_POISON


def test_rows_known_before_are_not_blamed_again():
    search = Search(0, 8, {1: BEFORE})
    fate, _ = hunt(search, {1, 5})
    assert (fate, search.poison) == ("kept", {1: BEFORE, 5: BOOM})


@given(
    st.integers(1, 200).flatmap(lambda rows: st.tuples(st.just(rows), st.sets(st.integers(0, rows - 1), max_size=4)))
)
def test_search_finds_exactly_the_rows_that_kill_in_few_probes(case):
    rows, deadly = case
    search = Search(0, rows)
    fate, probes = hunt(search, deadly) if deadly else ("kept", [])
    assert fate == "kept"
    assert set(search.poison) == deadly
    assert len(probes) <= len(deadly) * (2 * log2(rows) + 2)
    assert sum(len(probe) for probe in probes) <= len(deadly) * (rows + 1)
