"""`dgbatch retry`: quarantined rows once more, into the same run, provably without doubles.

Each shard that has such rows gets one record more, for its next round: again.py says what is in its files, ledger.py
when it counts. The run is whole after every record; whoever stops in between loses nothing but the proof (_SUCCESS),
which `retry` or `submit` then makes again.
"""

from __future__ import annotations

import copy
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from dgbatch.errors import DgbatchError, JobError, OutputError, RunFailed
from dgbatch.runner.again import COLUMNS, Again, Leftover
from dgbatch.runner.difference import job_difference
from dgbatch.runner.driver import DRAIN_S, run_job
from dgbatch.runner.ledger import base
from dgbatch.runner.metering.exposure import Exposure
from dgbatch.runner.model import ENGINE, describe_model
from dgbatch.runner.overrides import apply_override
from dgbatch.runner.pages.page import report_at_the_end
from dgbatch.runner.progress import OnProgress, Progress
from dgbatch.runner.run_folder import Run
from dgbatch.runner.spec import JobSpec, hiding_secrets
from dgbatch.runner.status import Status, status_of
from dgbatch.runner.stop_signals import ended_by_sigterm
from dgbatch.runner.storage.lock import lock
from dgbatch.runner.submit import finish, refuse_other_model, told
from dgbatch.runner.terminal.live_file import LiveFile
from dgbatch.runner.verify import Verification, check_input, read_file


@dataclass(frozen=True, slots=True)
class Quarantine:
    """What is in quarantine, and which of it a retry would run again."""

    codes: Counter[str]  # error code -> rows, of all that are in quarantine
    due: dict[int, Again]  # by shard

    @property
    def samples(self) -> int:
        """Rows that would be run again, each sample of them counted."""
        return sum(each.samples for each in self.due.values())


@dataclass(frozen=True, slots=True)
class Retried:
    """How a retry ended, when it ended well."""

    run: Run
    status: Status
    tried: int  # rows that were run again; of them
    mended: int  # came through
    verification: Verification | None  # None when there was nothing to do
    seconds: float


def retry(
    path: str,
    codes: Sequence[str] = (),
    overrides: Sequence[str] = (),
    on_progress: OnProgress | None = None,
    engine: str = ENGINE,
    drain_s: float = DRAIN_S,
) -> Retried:
    """Run the quarantined rows of a complete run again: all, or those with these error codes.

    overrides: of the job's fields that decide no tokens, such as workers.canvases=1. Raises a DgbatchError that says
    what to do.
    """
    started = time.monotonic()
    run = Run.open(path)
    spec = overridden(run, overrides)
    tell = on_progress or (lambda progress: None)
    asked = ["dgbatch", "retry", path, *(part for code in codes for part in ("--code", code))]
    with hiding_secrets(spec), ended_by_sigterm():
        check_input(run)
        if not quarantine(run, codes).due:
            return Retried(run, status_of(run), 0, 0, None, time.monotonic() - started)
        refuse_other_model(run, spec, describe_model(spec, engine, run.info.get("model")))
        with Exposure(spec, tell, path) as exposure, lock(path):
            left = quarantine(run, codes)  # nobody else changes it from here on
            before = run.ledger().tally.ok
            with (
                reopened(run),
                told(run, spec, shlex.join(asked)) as log,
                exposure.of(run, ledger := run.ledger()) as meter,
                LiveFile(run.folder, exposure.tell, exposure.url) as tell,
            ):
                run.event("retrying", rows=left.samples, codes=list(codes))
                run_job(spec, run.plan, run, tell, engine, drain_s, left.due, ledger=ledger, meter=meter, log=log)
                run.event("finalizing")
                tell(Progress("finalizing", spec.name, path, left.samples, left.samples, note="verifying every row"))
                verification = finish(run, spec)
            report_at_the_end(run)
            seconds = time.monotonic() - started
    status = status_of(run)
    mended = status.tally.ok - before
    return Retried(run, status, left.samples, mended, verification, seconds)


@contextmanager
def reopened(run: Run) -> Iterator[None]:
    """The run without _SUCCESS, which `finish` writes again; so does an error before anything has changed."""
    was_complete, before = run.succeeded, run.ledger().counted
    run.reopen()
    try:
        yield
    except DgbatchError:
        if was_complete and run.ledger().counted == before:
            run.finalise()
        raise


def quarantine(run: Run, codes: Sequence[str] = ()) -> Quarantine:
    """What a retry would do. Raises OutputError for a code that no row has, RunFailed for a run that is not whole."""
    ledger = run.ledger()
    if not ledger.complete:
        raise RunFailed(
            f"{run.path}: {ledger.tally.shards:,} of {len(run.plan.shards):,} shards are committed. Submit the job "
            "again to complete it; then retry what is in quarantine."
        )
    found, due = Counter[str](), dict[int, Again]()
    for shard in run.plan.shards:
        last = ledger.last_round(shard.index)
        files = tuple(commit.quarantine for commit in last if commit.quarantine is not None)
        faults: list[str] = []
        tables = [read_file(run, file, "quarantine", faults, COLUMNS) for file in files]
        lost = [row for table in tables if table is not None for row in table.to_pylist()]
        if faults:
            raise OutputError(f"{run.path}: {faults[0]}. Restore it from a copy; dgbatch verify lists what is damaged.")
        found.update(row["error_code"] for row in lost)
        leftover = Leftover(lost, codes)
        if leftover.rows:
            due[shard.index] = Again(
                shard, last[0].round + 1, base(last), files, tuple(codes), leftover.rows, leftover.samples
            )
    if unknown := [code for code in codes if code not in found]:
        has = ", ".join(f"{code} ({rows:,})" for code, rows in found.most_common()) or "no rows at all"
        raise OutputError(f"--code {unknown[0]}: no row in quarantine has this error code. It holds: {has}.")
    return Quarantine(found, due)


def overridden(run: Run, overrides: Sequence[str]) -> JobSpec:
    """The run's job with these fields changed. Raises JobError for one that would change rows or tokens."""
    data = copy.deepcopy(run.info["spec"])
    for override in overrides:
        apply_override(data, override, JobSpec)
    spec = JobSpec.from_public(data)
    if changed := job_difference(run.info["spec"], spec.public()):
        raise JobError(
            f"--set {changed[0]}: this decides rows or tokens, and those of {run.path} are made. A retry may change "
            "workers and retry, and where input and checkpoint lie; for all else submit a new run."
        )
    return spec
