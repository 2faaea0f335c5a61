from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from dgbatch.runner.layout import LIVE
from dgbatch.runner.progress import Progress
from dgbatch.runner.run_folder import Run
from dgbatch.runner.spec import load_job
from dgbatch.runner.storage.lock import lock
from dgbatch.runner.terminal import watch as module
from dgbatch.runner.terminal.watch import watch
from tests.fake_engine import fake_job
from tests.runner.small_run import commit_all, new_run
from tests.runner.terminal.test_live_file import write


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return new_run(load_job(fake_job(tmp_path, ["x"] * 32)))


def looked(run: Run, *steps) -> tuple[list[Progress], module.Status]:
    """What was shown, and how it ended; each step happens between two looks."""
    shown: list[Progress] = []
    left = list(steps)
    status = watch(run, shown.append, wait=lambda seconds: left.pop(0)())
    assert left == []
    return shown, status


def test_run_that_has_ended_is_not_waited_for(run):
    commit_all(run)
    run.finalise()
    shown, status = looked(run)
    assert (shown, status.state, status.exit_code) == ([], "completed", 0)


def test_watch_shows_what_the_driver_tells_then_what_is_committed_and_ends_with_the_run(run):
    told = datetime.now(timezone.utc)
    with lock(run.path) as held:
        run.event("started")
        commit_all(run, shards=run.plan.shards[:1])

        def tell() -> None:
            write(run.folder, told)

        def hush() -> None:
            run.folder.delete(LIVE)
            commit_all(run, bad=lambda row_id: row_id == "r0009", shards=run.plan.shards[1:])

        def end() -> None:
            held.release()
            run.finalise()

        shown, status = looked(run, tell, hush, end)
    assert [progress.rows for progress in shown] == [8, 612, 612]  # rows never fall: the driver knew of those in work
    assert [progress.ok for progress in shown] == [8, 500, 31]
    assert [len(progress.crew) for progress in shown] == [0, 2, 0]
    assert "committed" in shown[0].note and shown[1].note == ""
    assert (status.state, status.exit_code) == ("completed", 3)


def test_watch_ends_with_4_when_the_driver_was_killed(run):
    run.event("started")
    write(run.folder, datetime.fromtimestamp(0, timezone.utc))
    shown, status = looked(run)
    assert (shown, status.state, status.exit_code) == ([], "failed", 4)
    assert "submit again" in status.reason


def test_records_of_a_large_run_are_not_read_all_the_time(run, monkeypatch):
    clock = iter([0.0, 3.0, 10.0, 10.1])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    waits = []
    with lock(run.path) as held:
        run.event("started")

        def wait(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 1:
                held.release()

        watch(run, lambda progress: None, wait)
    assert waits == [60.0]
