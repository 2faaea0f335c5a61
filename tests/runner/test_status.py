from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from dgbatch.runner.commits import Commit, FileRecord
from dgbatch.runner.fingerprint import fingerprint
from dgbatch.runner.layout import LIVE
from dgbatch.runner.ledger import Tally
from dgbatch.runner.plan import make_plan
from dgbatch.runner.progress import Progress
from dgbatch.runner.run_folder import Run
from dgbatch.runner.spec import load_job
from dgbatch.runner.status import find_runs, status_of
from dgbatch.runner.storage.lock import lock
from tests.fake_engine import fake_job

NOW = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(hours=1)  # after any event of these tests


def commit(shard: int, seconds_ago: float = 0.0, **changes: object) -> Commit:
    made = Commit(
        shard=shard, attempt="abcd", data=FileRecord(f"data/part-{shard:06d}-abcd.parquet", 7, 1, "0"),
        quarantine=FileRecord(f"quarantine/part-{shard:06d}-abcd.parquet", 1, 1, "0"), ok=7, quarantined=1, accepted=5,
        prompt_tokens=70, tokens=100, canvases=8, denoise_steps=40, seconds=2.0, worker="w0",
        committed_at=(NOW - timedelta(seconds=seconds_ago)).isoformat(timespec="milliseconds"),
    )  # fmt: skip
    return replace(made, **changes)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    spec = load_job(fake_job(tmp_path, ["x"] * 32))
    plan = make_plan(spec)
    return Run.create(str(tmp_path / "out"), spec.public(), plan, fingerprint(spec, plan), {}, {})


def test_run_at_work_shows_counts_speed_workers_and_the_time_left(run):
    with lock(run.path):
        run.event("started")
        run.event("worker_ready", worker="w0")
        run.event("worker_ready", worker="w1")
        run.event("worker_lost", worker="w1")
        run.commit(commit(0, seconds_ago=8))
        run.commit(commit(1, seconds_ago=3))
        status = status_of(run, NOW)
    assert status.state == "in_progress"
    assert status.tokens_per_s == pytest.approx(200 / 10)  # the first of them began 10 s ago
    assert status.eta_s == pytest.approx(16 / (16 / 10))
    assert status.to_json() == {
        "state": "in_progress",
        "rows": {"expected": 32, "ok": 14, "quarantined": 2},
        "accepted": 10,
        "tokens": 200,
        "tokens_per_s": 20.0,
        "eta_s": 10.0,
        "workers": 1,
    }


def test_speed_of_a_run_that_ended_leaves_out_the_pause_before_the_last_submit(run):
    run.commit(commit(0, seconds_ago=100_000))
    run.event("started")
    run.commit(commit(1, seconds_ago=5, seconds=4.0))
    run.event("cancelled", reason="Ctrl-C")
    status = status_of(run)
    assert (status.state, status.reason, status.eta_s, status.workers) == ("cancelled", "Ctrl-C", None, 0)
    assert status.tokens_per_s == pytest.approx(100 / 4.0)
    assert status.exit_code == 130


def test_run_that_says_it_works_while_nobody_does_has_failed(run):
    run.event("started")
    run.event("worker_ready", worker="w0")
    status = status_of(run)
    assert (status.state, status.workers) == ("failed", 0)
    assert "submit again" in status.reason


def test_run_without_events_or_commits_has_no_speed(run):
    status = status_of(run)
    assert (status.state, status.tokens_per_s, status.tally) == ("failed", None, Tally())
    with lock(run.path):
        assert status_of(run).state == "validating"


def test_finished_run_is_completed_and_its_exit_code_tells_of_quarantine(run):
    for shard in range(4):
        run.commit(commit(shard))
    run.finalise()
    status = status_of(run)
    assert (status.state, status.exit_code) == ("completed", 3)


def test_runs_below_a_folder_are_found_by_name_and_not_inside_each_other(run, tmp_path):
    (tmp_path / "out" / "data").mkdir()
    assert [found.path for found in find_runs(tmp_path)] == [str(tmp_path / "out")]
    assert list(find_runs(tmp_path / "checkpoint")) == []
    assert [found.path for found in find_runs(run.path)] == [run.path]


def test_a_retry_has_no_rows_left_that_the_time_left_could_be_told_by(run):
    for index in range(4):
        run.commit(commit(index, seconds_ago=8))
    with lock(run.path):
        run.event("started")
        status = status_of(run, NOW)
    assert (status.state, status.eta_s) == ("in_progress", None)


def test_what_the_driver_tells_is_believed_also_when_it_is_zero(run):
    run.commit(commit(0, seconds_ago=8))
    with lock(run.path):
        run.event("started")
        run.event("worker_ready", worker="w0")
        told = Progress("in_progress", "fake", run.path, expected=32, rows=32, eta_s=0.0)
        run.folder.put(
            LIVE, json.dumps({"at": datetime.now(timezone.utc).isoformat(), "every_s": 2, **told.to_json()}).encode()
        )
        status = status_of(run, NOW)
    assert (status.eta_s, status.workers) == (0.0, 0)
