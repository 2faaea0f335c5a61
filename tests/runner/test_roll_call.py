from __future__ import annotations

from dataclasses import replace

import pytest

from dgbatch.records import EngineStats
from dgbatch.runner.report import Report
from dgbatch.runner.roll_call import farewell
from dgbatch.runner.run_folder import Run
from tests.runner.small_run import new_run

REPORT = Report(
    loaded=True,
    device="H200",
    canvases=8,
    stats=EngineStats(passes=4, tokens=90, floor_s=1.0, seconds={"denoise": 3.0, "sample": 1.0, "load": 9.12345}),
)


@pytest.fixture
def run(make_job, some_rows) -> Run:
    return new_run(make_job(some_rows(4), "input.id=id"))


def test_what_all_workers_did_is_kept_in_one_write(run, monkeypatch):
    """A store takes its time for each, and there may be a thousand workers."""
    writes, append = [], run.folder.append
    monkeypatch.setattr(run.folder, "append", lambda name, line: (writes.append(name), append(name, line)))
    farewell(run, [("w0", REPORT), ("w1", Report()), ("w2", replace(REPORT, device="H100"))])
    assert len(writes) == 1
    assert [(event["kind"], event["worker"], event["device"]) for event in run.events()] == [
        ("worker_stats", "w0", "H200"),
        ("worker_stats", "w2", "H100"),  # w1 had not loaded
    ]
    assert (run.events()[0]["seconds"]["load"], run.events()[0]["roofline"]) == (9.123, 0.25)
    farewell(run, [("w1", Report())])
    assert len(writes) == 1


def test_a_job_does_not_end_because_nobody_can_write_it_down(run, monkeypatch):
    def full(name: str, line: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run.folder, "append", full)
    farewell(run, [("w0", REPORT)])
    assert run.events() == []
