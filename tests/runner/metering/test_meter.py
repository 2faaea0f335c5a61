"""What a driver counts, and the moment that is made of it: states of shards and workers, ratios of the last seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from dgbatch.records import EngineStats
from dgbatch.runner.actors import Actor
from dgbatch.runner.dispatch import Dispatch
from dgbatch.runner.ledger import Ledger, Tally
from dgbatch.runner.metering import meter as module
from dgbatch.runner.metering.meter import Meter, Recent
from dgbatch.runner.metrics import page
from dgbatch.runner.piece import Piece
from dgbatch.runner.poison import Blame
from dgbatch.runner.progress import Progress
from dgbatch.runner.report import Report
from dgbatch.runner.run_folder import Run
from tests.runner.conftest import MakeJob
from tests.runner.small_run import new_run, write_attempt

Rows = Callable[[int], pa.Table]


@pytest.fixture
def run(make_job: MakeJob, some_rows: Rows) -> Run:
    return new_run(make_job(some_rows(12), "input.id=id", "workers.shard_rows=2", "metrics.deadline_s=60"))


@pytest.fixture
def ledger(run: Run) -> Ledger:
    return run.ledger()


@pytest.fixture
def meter(run: Run, ledger: Ledger) -> Meter:
    return Meter(run.spec, run, ledger)


def actor(name: str, loaded: bool = True, leaving: bool = False, moved_s: float = 0.0, **stats: Any) -> Actor:
    report = Report(loaded=loaded, canvases=4, stats=EngineStats(**stats))
    return Actor(name, None, time.monotonic() - moved_s, report, leaving)


def test_a_commit_is_in_the_totals_at_once(run: Run, ledger: Ledger, meter: Meter) -> None:
    assert meter.moment.last_commit_at is None and meter.moment.deadline_at == meter.moment.started_at + 60
    commit = write_attempt(run, run.plan.shards[0])
    assert run.commit(commit, ledger)
    meter.committed(commit, 0.003)
    moment = meter.moment
    assert (moment.tally.ok, moment.commits, moment.last_commit_at) == (2, 1, 1_795_233_600)
    assert (moment.commit_duration.count, moment.commit_duration.sum) == (1, 0.003)
    assert Meter(run.spec, run, run.ledger()).moment.last_commit_at == moment.last_commit_at


def test_every_shard_is_in_one_state_and_every_worker_too(run: Run, meter: Meter) -> None:
    dispatch = Dispatch([Piece(shard, 0, shard.selected) for shard in run.plan.shards], shard_attempts=1)
    dispatch.next_for("w0", 3)
    (lost,) = dispatch.next_for("w1", 1)
    dispatch.failed("w1", lost.piece.place)
    crew = [actor("w0", moved_s=9), actor("w1"), actor("w2", loaded=False), actor("w3", leaving=True, moved_s=99)]
    crew.append(actor("w4", loaded=False, leaving=True))
    meter.look(run, dispatch, crew, left=6)
    moment = meter.moment
    assert moment.shards == {"committed": 0, "running": 2, "given_up": 1, "pending": 3}
    assert [worker.state for worker in moment.workers] == ["working", "idle", "starting", "leaving", "starting"]
    assert 9 <= moment.queue_age_s < 60  # of those that hold a piece
    meter.look(run, dispatch, [], left=6)
    assert meter.moment is moment  # that was a moment ago
    meter.look(run, dispatch, [], left=6, at_once=True)
    assert meter.moment.shards["running"] == 0 and meter.moment.shards["pending"] == 5
    assert meter.moment.workers == () and meter.moment.queue_age_s == 0


def test_what_goes_wrong_is_counted_by_its_reason(run: Run, meter: Meter) -> None:
    meter.retried("worker_lost", 2)
    meter.retried("probe")
    meter.restarted("stalled")
    meter.told(Progress("in_progress", "test", run.path, expected=10, rows=4, eta_s=2.0))
    meter.look(run, Dispatch([]), [], left=0)
    assert meter.moment.retries == {"worker_lost": 2, "probe": 1} and meter.moment.restarts == {"stalled": 1}
    assert (meter.moment.state, meter.moment.eta_s) == ("in_progress", 2.0)
    meter.look(run, Dispatch([]), [actor("w0")], left=0, at_once=True)
    assert len(meter.moment.workers) == 1
    meter.ended("failed")
    assert (meter.moment.state, meter.moment.eta_s, meter.moment.workers) == ("failed", None, ())


def test_ratios_are_those_of_the_last_seconds() -> None:
    recent = Recent()

    def at(now: float, **stats: Any) -> None:
        recent.add(now, Report(stats=EngineStats(**stats)))

    at(0, passes=10, tiles=10, floor_s=1.0, seconds={"denoise": 8.0, "sample": 2.0, "prefill": 9.0})
    assert recent.occupancy(4) == 0 and recent.roofline is None
    at(5, passes=20, tiles=40, floor_s=3.0, seconds={"denoise": 11.0, "sample": 3.0, "prefill": 99.0})
    assert recent.occupancy(4) == 30 / 10 / 4 and recent.roofline == 2 / 4
    at(40, passes=20, tiles=40, floor_s=3.0, seconds={"denoise": 11.0, "sample": 3.0, "prefill": 99.0})
    assert recent.occupancy(4) == 0 and recent.roofline is None  # it stood still all that time
    at(41, passes=1, tiles=4, floor_s=0.1, seconds={})
    assert recent.occupancy(4) == 0  # another process


def test_a_search_that_is_on_is_known(run: Run) -> None:
    piece = Piece(run.plan.shards[0], 0, 2)
    dispatch = Dispatch([piece], shard_attempts=1)
    dispatch.next_for("w0", 1)
    assert not dispatch.is_searched(piece)
    dispatch.lost("w0", Blame("worker_killed", "x"))
    assert dispatch.is_searched(piece)


def test_series_of_a_worker_that_comes_back_begin_anew(run: Run, meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    dispatch = Dispatch([])
    meter.look(run, dispatch, [actor("w0", passes=4, tiles=4)], left=0)
    meter.look(run, dispatch, [actor("w0", passes=8, tiles=20)], left=0)
    assert meter.moment.workers[0].occupancy == 1
    meter.look(run, dispatch, [], left=0)
    meter.look(run, dispatch, [replace_stats(actor("w0", passes=50, tiles=50))], left=0)
    assert meter.moment.workers[0].occupancy == 0


def replace_stats(one: Actor) -> Actor:
    one.report = replace(one.report)
    return one


def test_a_code_whose_last_row_was_mended_is_at_zero_and_not_gone(run: Run, ledger: Ledger) -> None:
    """A series that only ends keeps its last value in last_over_time: an alarm would go on for an hour."""
    assert run.commit(write_attempt(run, run.plan.shards[0], bad=lambda row_id: row_id == "r1"), ledger)
    meter = Meter(run.spec, run, ledger)
    assert b'dgbatch_quarantined_rows{code="prompt_too_long",job="test"} 1.0' in page(meter.moment)
    ledger.tally = Tally(shards=1, ok=2)  # as after a round of retry
    meter.look(run, Dispatch([]), [], left=5)
    assert b'dgbatch_quarantined_rows{code="prompt_too_long",job="test"} 0.0' in page(meter.moment)
