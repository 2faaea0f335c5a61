"""When a run worked, how fast, and how long its workers were there: from lists of events and records."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from dgbatch.runner.commits import Commit, FileRecord
from dgbatch.runner.pages.timeline import covered, lives, sessions, throughput

START = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)


def at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def event(after: float, kind: str, **fields: object) -> dict:
    return {"at": at(after), "kind": kind, **fields}


def commit(
    ended: float, seconds: float, tokens: int = 100, rows: int = 10, worker: str = "w0", shard: int = 0
) -> Commit:
    return Commit(
        shard=shard, attempt="abcd", data=FileRecord(f"data/part-{shard:06d}-abcd.parquet", rows, 1, "0"),
        quarantine=None, ok=rows, quarantined=0, accepted=0, prompt_tokens=0, tokens=tokens, canvases=rows,
        denoise_steps=rows, seconds=seconds, worker=worker, committed_at=at(ended),
    )  # fmt: skip


def test_two_submits_are_two_sessions_and_the_night_between_them_is_none():
    events = [
        event(0, "started"),
        event(9, "worker_lost", worker="w0"),
        event(1000, "started"),
        event(1030, "completed"),
    ]
    found = sessions(events, [commit(8, 5), commit(1020, 10)])
    assert [(each.seconds, each.ended) for each in found] == [(9, ""), (30, "completed")]


def test_a_session_that_was_cut_off_ends_with_its_last_commit():
    assert [each.seconds for each in sessions([event(0, "started")], [commit(8, 5)])] == [8]


def test_a_run_at_work_lasts_until_now():
    now = (START + timedelta(seconds=60)).timestamp()
    assert [each.seconds for each in sessions([event(0, "started")], [commit(8, 5)], now)] == [60]
    done = [event(0, "started"), event(9, "completed")]
    assert [each.seconds for each in sessions(done, [commit(8, 5)], now)] == [9]


def test_records_alone_make_a_session_from_the_begin_of_the_first():
    assert [(each.seconds, each.what) for each in sessions([], [commit(8, 5), commit(12, 2)])] == [(9, "submit")]
    assert sessions([], []) == []


def test_a_retry_is_called_so():
    events = [event(0, "started"), event(5, "completed"), event(50, "started"), event(51, "retrying", rows=3)]
    assert [each.what for each in sessions(events, [])] == ["submit", "retry"]


def test_tokens_of_a_commit_are_spread_over_its_time():
    commits = [commit(10, 10, tokens=1000, rows=50)]
    found = throughput(sessions([event(0, "started"), event(20, "completed")], commits), [], commits)
    assert found is not None
    assert found.width_s == 0.2
    assert found.tokens_per_s[:50] == pytest.approx([100.0] * 50)
    assert found.tokens_per_s[50:] == pytest.approx([0.0] * 50)
    assert sum(found.rows_per_s) * found.width_s == pytest.approx(50)
    assert found.busy_s == 10


def test_nothing_is_lost_where_commits_overlap_bins_and_sessions():
    events = [event(0, "started"), event(500, "started"), event(537, "completed")]
    commits = [commit(7 + 3 * n, 4.7, tokens=91, shard=n) for n in range(9)]
    commits += [commit(510 + 3 * n, 30.0, tokens=91, shard=9 + n) for n in range(9)]
    found = throughput(sessions(events, commits), events, commits)
    total = sum(each.seconds for each in sessions(events, commits))
    lengths = [found.width_s] * (len(found.tokens_per_s) - 1) + [total - found.width_s * (len(found.tokens_per_s) - 1)]
    made = sum(rate * length for rate, length in zip(found.tokens_per_s, lengths, strict=True))
    assert made == pytest.approx(18 * 91)


def test_restarts_and_losses_stand_on_the_clock_of_work():
    events = [
        event(0, "started"),
        event(7, "worker_lost", worker="w1"),
        event(1000, "started"),
        event(1010, "completed"),
    ]
    commits = [commit(10, 5), commit(1009, 5)]
    found = throughput(sessions(events, commits), events, commits)
    assert found.restarts == ((10, 990),)
    assert found.losses == ((7, "w1"),)


def test_nothing_committed_has_no_throughput():
    assert throughput(sessions([event(0, "started"), event(9, "failed")], []), [], []) is None


def test_a_worker_lives_from_ready_to_its_last_word_and_loads_before():
    stats = {"seconds": {"load": 4.0, "denoise": 6.0}}
    events = [
        event(0, "started"), event(5, "worker_ready", worker="w0", device="NVIDIA H200", where="a:1"),
        event(25, "worker_stats", worker="w0", **stats), event(25, "worker_lost", worker="w0"),
        event(30, "worker_ready", worker="w0", device="NVIDIA H200", where="b:1"),
        event(40, "completed"),
    ]  # fmt: skip
    found = lives(sessions(events, []), events, [])
    assert [(life.where, life.seconds, life.phases) for life in found] == [
        ("a:1", 24.0, {"load": 4.0, "denoise": 6.0}),
        ("b:1", 10.0, {}),
    ]


def test_stats_that_come_after_the_loss_are_still_the_worker_s():
    events = [
        event(0, "started"), event(5, "worker_ready", worker="w0"), event(9, "worker_lost", worker="w0"),
        event(9.5, "worker_stats", worker="w0", seconds={"load": 1.0}),
    ]  # fmt: skip
    assert [(life.seconds, life.phases) for life in lives(sessions(events, []), events, [])] == [(5.0, {"load": 1.0})]


def test_workers_of_a_driver_that_was_killed_end_with_the_last_that_is_heard():
    events = [event(0, "started"), event(5, "worker_ready", worker="w0"), event(20, "shard_cut"), event(900, "started")]
    assert [life.seconds for life in lives(sessions(events, []), events, [])] == [15.0]
    commits = [commit(100, 60)]
    assert [life.seconds for life in lives(sessions(events, commits), events, commits)] == [95.0]


def test_without_events_workers_lived_while_they_had_work():
    commits = [commit(10, 6, worker="w0"), commit(12, 6, worker="w0"), commit(30, 5, worker="w1")]
    found = lives(sessions([], commits), [], commits)
    assert [(life.worker, life.seconds) for life in found] == [("w0", 8.0), ("w1", 5.0)]


def test_time_that_is_covered_twice_counts_once():
    assert covered([(10, 10), (10, 2), (30, 5)]) == 15
    assert covered([]) == 0
