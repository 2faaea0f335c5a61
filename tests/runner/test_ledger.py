"""Which records count: one rule, and nothing that overlaps; what is left to do is just the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.runner.commits import Commit, FileRecord
from dgbatch.runner.ledger import Ledger, Tally, base, chosen
from dgbatch.runner.plan import Shard
from dgbatch.runner.sums import BOUNDS, Histogram, Sums

SHARDS = tuple(Shard(index, "in.parquet", 0, 8 * index, 8, 8) for index in range(3))


def commit(shard: int = 0, first: int | None = None, stop: int = 0, attempt: str = "", **changes: object) -> Commit:
    """All of a shard, or [first, stop) of it; one row of it is in quarantine."""
    span = None if first is None else (first, stop)
    rows = 8 if span is None else stop - span[0]
    attempt = attempt or f"{shard}{'ffff' if span is None else f'{first:02x}{stop:02x}'}"
    made = Commit(
        shard=shard,
        attempt=attempt,
        data=FileRecord(f"data/part-{shard:06d}-{attempt}.parquet", rows - 1, 1, "d"),
        quarantine=FileRecord(f"quarantine/part-{shard:06d}-{attempt}.parquet", 1, 1, "q"),
        ok=rows - 1,
        quarantined=1,
        accepted=2,
        prompt_tokens=10,
        tokens=100,
        canvases=4,
        denoise_steps=20,
        seconds=1.0,
        worker="w0",
        committed_at="2026-11-21T04:00:00.000+00:00",
        span=span,
    )
    return replace(made, **changes)


def retried(*on: Commit, ok: int = 1, quarantined: int = 0, number: int = 1) -> Commit:
    """A round of retry based on these records."""
    again = commit(on[0].shard, attempt=f"{on[0].shard}000{number}")
    left = replace(again.quarantine, rows=quarantined) if quarantined else None
    return replace(again, ok=ok, quarantined=quarantined, quarantine=left, round=number, base=base(on))


def with_sums(commit: Commit) -> Commit:
    """The same with sums that are its own."""
    number = sum(commit.attempt.encode()) % 97
    durations = Histogram.of(BOUNDS["row_duration_s"], [number / 7] * commit.ok)
    codes = (("null_prompt", commit.quarantined),) if commit.quarantined else ()
    return replace(commit, sums=Sums(number, number // 2, codes, row_duration_s=durations))


def ledger(*commits: Commit) -> Ledger:
    return Ledger.of(SHARDS, commits)


def test_a_whole_shard_beats_its_pieces():
    whole, left, right = commit(), commit(0, 0, 4), commit(0, 4, 8)
    assert ledger(left, right).counted == [left, right]
    assert ledger(left, whole, right).counted == [whole]
    assert ledger(left, whole, right).lost == [left, right]


def test_of_pieces_that_overlap_the_first_and_longer_one_counts():
    short, long, late, rest = commit(0, 0, 3), commit(0, 0, 5), commit(0, 4, 8), commit(0, 5, 8)
    assert ledger(late, short, rest, long).counted == [long, rest]
    assert ledger(late, short).counted == [short, late]


def test_what_is_left_are_the_rows_that_no_record_covers():
    some = ledger(commit(0), commit(1, 2, 4), commit(1, 6, 8))
    assert some.missing(1) == [range(0, 2), range(4, 6)]
    assert some.outstanding() == [(SHARDS[1], range(0, 2)), (SHARDS[1], range(4, 6)), (SHARDS[2], range(8))]
    assert [some.is_done(index) for index in range(3)] == [True, False, False]
    assert not some.complete
    assert ledger(commit(0), commit(1, 0, 2), commit(1, 2, 8), commit(2)).complete


def test_a_shard_counts_as_done_with_its_last_piece():
    grown = Ledger(SHARDS)
    for first in (0, 2, 4):
        grown.add(commit(1, first, first + 2))
    assert (grown.tally.shards, grown.tally.rows) == (0, 6)
    grown.add(commit(1, 6, 8))
    assert grown.tally == Tally(1, 4, 4, 8, 40, 400, 16, 80)
    assert (grown.tally.rows, grown.tally.steps_per_canvas) == (8, 5.0)
    assert Tally().steps_per_canvas is None


def test_the_same_record_added_twice_is_one():
    grown = ledger(commit(0))
    grown.add(commit(0))
    assert grown.tally == Tally(1, 7, 1, 2, 10, 100, 4, 20)


def test_records_of_rows_that_the_plan_lacks_do_not_count():
    foreign, long = commit(9), commit(0, 4, 9)
    assert not ledger().fits(foreign) and not ledger().accepts(long)
    assert (ledger(foreign, long).counted, ledger(foreign, long).lost) == ([], [foreign, long])


def test_a_driver_is_told_what_not_to_commit_and_whom_it_would_wrong():
    left = commit(0, 0, 4)
    some = ledger(left)
    assert some.accepts(commit(0, 4, 8)) and some.accepts(commit(1))
    for rival in (commit(0), commit(0, 0, 3), commit(0, 3, 8), commit(0, 0, 8)):
        assert not some.accepts(rival)
        assert some.rivals(rival) == [left]
    assert some.rivals(commit(0, 4, 8)) == []


def test_a_round_of_retry_adds_its_rows_and_takes_the_place_of_the_quarantine():
    left, right = commit(0, 0, 4), commit(0, 4, 8)
    first = retried(left, right, ok=1, quarantined=1)
    second = retried(first, ok=1, number=2)
    assert ledger(left, right).tally.quarantined == 2
    once = ledger(left, right, first)
    assert (once.tally.ok, once.tally.quarantined) == (7, 1)
    assert once.quarantine == [first.quarantine]
    twice = ledger(second, right, left, first)
    assert (twice.tally.ok, twice.tally.quarantined, twice.tally.tokens) == (8, 0, 400)
    assert twice.quarantine == []
    assert twice.data == [left.data, right.data, first.data, second.data]
    assert twice.last_round(0) == (second,)


def test_a_round_that_is_based_on_other_attempts_does_not_count():
    left, right = commit(0, 0, 4), commit(0, 4, 8)
    on_less, on_more = retried(left), retried(left, right, commit())
    assert ledger(left, right, on_less).lost == [on_less]
    assert ledger(left, right, on_more).lost == [on_more]
    skipping = retried(left, right, number=2)
    assert not ledger(left, right).accepts(skipping)
    assert ledger(left, right).accepts(retried(left, right))


def test_sums_of_a_shard_say_what_is_in_quarantine_after_its_last_round():
    left, right = with_sums(commit(0, 0, 4)), with_sums(commit(0, 4, 8))
    first = with_sums(retried(left, right, ok=1, quarantined=1))
    sums = ledger(left, right, first).tally.sums
    assert sums.quarantined == (("null_prompt", 1),)
    assert sums.row_duration_s.count == 7
    assert sums.revised_tokens == sum(each.sums.revised_tokens for each in (left, right, first))


def test_what_would_undo_a_round_of_retry_is_refused():
    left, right = commit(0, 0, 4), commit(0, 4, 8)
    some = ledger(left, right, retried(left, right))
    again = replace(retried(left, right), attempt="beef")
    assert not some.accepts(commit()) and not some.accepts(again)


def test_a_round_never_covers_rows_of_its_own():
    left = commit(0, 0, 4)
    assert ledger(left, retried(left)).missing(0) == [range(4, 8)]


@st.composite
def records(draw: st.DrawFn) -> list[Commit]:
    """Any records of shard 0, no two of one name, as a listing has them."""
    spans = draw(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 8)).filter(lambda s: s[0] < s[1]), unique=True))
    found = [commit(0, *span) for span in spans]
    if draw(st.booleans()):
        found.append(commit())
    if found:
        for number in range(1, draw(st.integers(0, 3))):
            on = draw(st.lists(st.sampled_from(found), min_size=1, max_size=3, unique=True))
            found.append(retried(*on, number=number))
    return found


@given(records(), st.randoms())
def test_the_same_records_in_any_order_give_the_same_choice(found: list[Commit], dice) -> None:
    found = [with_sums(each) for each in found]
    shuffled = list(found)
    dice.shuffle(shuffled)
    expected = ledger(*found)
    grown = Ledger(SHARDS)
    for each in shuffled:
        grown.add(each)
    assert ledger(*shuffled).counted == grown.counted == expected.counted
    assert grown.tally == expected.tally
    assert set(grown.lost) == set(found) - set(grown.counted)
    sums = grown.tally.sums
    assert sum(rows for _, rows in sums.quarantined) == grown.tally.quarantined
    assert sums.row_duration_s.count == sum(max(0, each.ok) for each in grown.counted)
    assert grown.commits == len(grown.counted)


@given(records())
def test_every_row_is_covered_once_or_is_left_to_do(found: list[Commit]) -> None:
    made = ledger(*found)
    pieces = [each for each in made.counted if not each.round]
    covered = [row for each in pieces for row in range(*(each.span or (0, 8)))]
    left = [row for rows in made.missing(0) for row in rows]
    assert sorted(covered + left) == list(range(8))


@given(records(), st.data())
def test_what_is_accepted_changes_no_choice_and_what_is_refused_has_a_reason(
    found: list[Commit], data: st.DataObject
) -> None:
    made = ledger(*found)
    first = data.draw(st.integers(0, 7))
    late = commit(0, first, data.draw(st.integers(first + 1, 8)), attempt="1a7e")
    if made.accepts(late):
        assert set(chosen((*found, late))) == {*made.counted, late}
    else:
        assert made.rivals(late) or any(each.round for each in made.counted)


def test_many_records_are_chosen_in_a_moment():
    shards = [Shard(index, "in.parquet", 0, 8 * index, 8, 8) for index in range(20_000)]
    made = Ledger.of(shards, (commit(index) for index in range(19_800)))
    assert made.tally.shards == 19_800 and len(made.outstanding()) == 200


@pytest.mark.parametrize("count", [1, 3])
def test_sums_of_a_shard_are_those_of_its_records(count: int):
    pieces = [commit(2, first, first + 1) for first in range(count)]
    assert ledger(*pieces).sum_of(2) == Tally(0, 0, count, 2 * count, 10 * count, 100 * count, 4 * count, 20 * count)
