"""A worker without a driver or Ray: given pieces, asked for its reports, and stopped after its test."""

from __future__ import annotations

import threading
import time

from dgbatch.records import EngineConfig
from dgbatch.runner.commits import Commit
from dgbatch.runner.piece import Piece, Task
from dgbatch.runner.plan import Plan, make_plan
from dgbatch.runner.report import Report
from dgbatch.runner.spec import JobSpec, load_job
from dgbatch.runner.worker import Worker
from tests.fake_engine import PATH

LIMIT_S = 20.0

STARTED: list[Worker] = []


def stop_workers() -> None:
    """End all that were started. A thread inside pyarrow when the interpreter ends would abort the whole test run."""
    if not STARTED:
        return
    while STARTED:
        STARTED.pop().exchange(closing_s=0.0)
    for thread in threading.enumerate():
        if thread.name == "engine":
            thread.join(LIMIT_S)
            assert not thread.is_alive()


def started(job: str, engine: str = PATH, *overrides: str, **more: bool) -> tuple[Worker, Plan, JobSpec]:
    spec = load_job(job, overrides)
    plan = make_plan(spec)
    config = EngineConfig(canvases=spec.workers.canvases)
    worker = Worker("w0", spec, plan.schema, spec.output.path, config, engine, **more)
    STARTED.append(worker)
    return worker, plan, spec


def give(plan: Plan, index: int = 0, attempt: int = 1, **more) -> Task:
    return Task(Piece.whole(plan.shards[index]), attempt, **more)


def wait_for(worker: Worker, done, tasks=(), cuts=(), closing_s: float | None = None) -> Report:
    """Give tasks and exchange until the test is content; receipts and failures of all reports are in the last."""
    receipts: list[Commit] = []
    failures: list = []
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        report, tasks, cuts = worker.exchange(tasks, cuts, closing_s), (), ()
        receipts += report.receipts
        failures += report.failures
        if done(report, receipts, failures):
            return Report(**{**{f: getattr(report, f) for f in Report.__dataclass_fields__},
                             "receipts": tuple(receipts), "failures": tuple(failures)})  # fmt: skip
    raise AssertionError(f"nothing in {LIMIT_S} s: {report}")


def loaded(report: Report, receipts: list, failures: list) -> bool:
    return report.loaded


def received(report: Report, receipts: list, failures: list) -> bool:
    return bool(receipts)
