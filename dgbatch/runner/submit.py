"""From a job file to a verified dataset: every step in order, and what each of them may refuse."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from dgbatch.errors import CheckpointError, DgbatchError, OutputError, RunCancelled, RunFailed
from dgbatch.runner.difference import model_difference
from dgbatch.runner.driver import DRAIN_S, run_job
from dgbatch.runner.export import check_duckdb, holds_run, write_duckdb
from dgbatch.runner.fingerprint import fingerprint
from dgbatch.runner.layout import REPORT, RUN, SUCCESS, withdraw
from dgbatch.runner.logs.process_log import LogIds, driver_log
from dgbatch.runner.metering.exposure import Exposure
from dgbatch.runner.model import ENGINE, describe_model
from dgbatch.runner.outlook import differences
from dgbatch.runner.pages.page import report_at_the_end
from dgbatch.runner.plan import Plan, input_files, make_plan
from dgbatch.runner.progress import OnProgress, Progress
from dgbatch.runner.run_folder import Run
from dgbatch.runner.schema import schemas
from dgbatch.runner.spec import JobSpec, hiding_secrets, load_job
from dgbatch.runner.status import Status, status_of
from dgbatch.runner.stop_signals import ended_by_sigterm
from dgbatch.runner.storage.folder import open_folder
from dgbatch.runner.storage.lock import lock
from dgbatch.runner.terminal.live_file import LiveFile
from dgbatch.runner.verify import Verification, verify
from dgbatch.runner.versions import versions


@dataclass(frozen=True, slots=True)
class Submitted:
    """How a submit ended, when it ended well."""

    run: Run
    status: Status
    verification: Verification | None  # None when the run was complete already
    was_complete: bool
    rows_before: int  # rows that an earlier submit had committed
    seconds: float
    report: str = ""  # where the page lies that tells of the run; nothing when it could not be written

    @property
    def exit_code(self) -> int:
        return self.status.exit_code


def submit(
    job: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    new_run: bool = False,
    on_progress: OnProgress | None = None,
    engine: str = ENGINE,
    drain_s: float = DRAIN_S,
) -> Submitted:
    """Run a job, or what is left of it. Raises a DgbatchError that says what to do; submitting again then resumes."""
    spec = load_job(job, overrides)
    with hiding_secrets(spec), ended_by_sigterm():
        asked = ["dgbatch", "submit", os.fspath(job), *(part for text in overrides for part in ("--set", text))]
        return _submit(spec, new_run, on_progress or (lambda progress: None), engine, drain_s, shlex.join(asked))


def _submit(spec: JobSpec, new_run: bool, tell: OnProgress, engine: str, drain_s: float, command: str) -> Submitted:
    started = time.monotonic()
    tell(Progress("validating", spec.name, spec.output.path, note="reading the input"))
    path = unused(spec.output.path) if new_run else spec.output.path
    plan = plan_of(path, spec)
    columns = schemas(spec, plan.schema)  # raises for columns that clash
    complete = completed(path, spec, plan, engine)
    if complete is not None:
        page = str(complete.folder.at(REPORT)) if in_output(path, REPORT) else ""
        return Submitted(complete, status_of(complete), None, True, plan.expected, time.monotonic() - started, page)
    tell(Progress("validating", spec.name, path, expected=plan.expected, note="checking the checkpoint"))
    known = Run.open(path).info.get("model") if in_output(path, RUN) else None
    model = describe_model(spec, engine, known)  # before anything is written: a wrong checkpoint leaves nothing behind
    if spec.output.duckdb:
        check_duckdb(spec.output.duckdb, fingerprint(spec, plan), columns)
    with Exposure(spec, tell, path) as exposure, lock(path):
        run, is_new = open_or_create(path, spec, plan, model)
        ledger = run.ledger()
        rows_before = ledger.tally.rows
        with (
            told(run, spec, command, is_new) as log,
            exposure.of(run, ledger) as meter,
            LiveFile(run.folder, exposure.tell, exposure.url) as tell,
        ):
            run_job(spec, plan, run, tell, engine, drain_s, ledger=ledger, meter=meter, log=log)
            run.event("finalizing")
            tell(
                Progress(
                    "finalizing", spec.name, path, plan.expected, plan.expected,
                    elapsed_s=time.monotonic() - started, note="verifying every row",
                )
            )  # fmt: skip
            verification = finish(run, spec)
        page = report_at_the_end(run)
        seconds = time.monotonic() - started
    return Submitted(run, status_of(run), verification, False, rows_before, seconds, page)


def plan_of(path: str, spec: JobSpec) -> Plan:
    """The plan of the run at this path where it was made of this job and this input, else a new one.

    Cutting an input anew means reading all of its ids, which takes longer than resuming should.
    """
    if in_output(path, RUN):
        run = Run.open(path)
        now = replace(run.plan, files=input_files(spec))
        if fingerprint(spec, now) == run.fingerprint:
            return run.plan
    return make_plan(spec)


def completed(path: str, spec: JobSpec, plan: Plan, engine: str) -> Run | None:
    """The run at this path when it is this job's and there is nothing left to do."""
    if not in_output(path, SUCCESS):
        return None
    run = Run.open(path)
    refuse_other_job(run, spec, plan)
    if os.path.isdir(
        spec.model.checkpoint
    ):  # a hub id with its revision is what it was; nothing is downloaded for this
        with suppress(CheckpointError):  # a complete run needs no model any more
            refuse_other_model(run, spec, describe_model(spec, engine, run.info.get("model")))
    refuse_damaged(run)
    if spec.output.duckdb and not holds_run(spec.output.duckdb, run.fingerprint):
        write_duckdb(run, spec.output.duckdb)
    return run


def open_or_create(path: str, spec: JobSpec, plan: Plan, model: dict[str, Any]) -> tuple[Run, bool]:
    """The run at this path, and whether it is a new one. Raises OutputError when it is another job's."""
    if not in_output(path, RUN):
        return Run.create(path, spec.public(), plan, fingerprint(spec, plan), versions(), model), True
    run = Run.open(path)
    refuse_other_job(run, spec, plan)
    refuse_other_model(run, spec, model)
    return run, False


def refuse_damaged(run: Run) -> None:
    """RunFailed for a complete run that lost files since. That their bytes are still right, only verify says."""
    if gone := run.gone(run.ledger()):
        more = f", and {len(gone) - 1:,} more" if len(gone) > 1 else ""
        raise RunFailed(
            f"{run.path}: this run was complete, and files of it are gone since: {gone[0]}{more}. Restore them from a "
            f"copy; or make their rows anew: dgbatch verify {run.path} --repair, and submit again."
        )


def refuse_other_job(run: Run, spec: JobSpec, plan: Plan) -> None:
    if run.fingerprint == fingerprint(spec, plan):
        return
    _refuse_changed(run, differences(run, spec, plan))


def refuse_other_model(run: Run, spec: JobSpec, model: dict[str, Any]) -> None:
    before, now = run.info.get("model", {}).get("checksum"), model.get("checksum")
    if before and now and before != now:
        _refuse_changed(run, model_difference(spec.model.checkpoint, before, now))


def _refuse_changed(run: Run, lines: Sequence[str]) -> NoReturn:
    tally = run.ledger().tally
    listed = "\n".join(f"  {line}" for line in lines)
    raise OutputError(
        f"{run.path}: this run was begun with another job, input or model. What has changed:\n\n{listed}\n\n"
        f"Put it back, and the run goes on: {tally.rows:,} of {run.plan.expected:,} rows are done. Or keep the change "
        "and start anew beside it, with --new-run or another output.path."
    )


def unused(path: str) -> str:
    """This path, or the first of path-2, path-3, ... where there is nothing yet."""
    return next(name for number in count(1) if _is_unused(name := path if number == 1 else f"{path}-{number}"))


def _is_unused(path: str) -> bool:
    with usable(path):
        return open_folder(path).is_free()


def in_output(path: str, name: str) -> bool:
    """Whether the folder of a run holds this file. Raises OutputError where it cannot be read."""
    with usable(path):
        return open_folder(path).exists(name)


@contextmanager
def usable(path: str) -> Iterator[None]:
    """What a store or a disk says before anything has started is about output.path."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).rstrip(".")
        raise OutputError(f"output.path: {path} cannot be read: {reason}. Choose another folder.") from error


@contextmanager
def told(run: Run, spec: JobSpec, command: str, is_new: bool = False) -> Iterator[LogIds]:
    """Write down how it goes, in events and logs. A new run that is refused before its first commit leaves nothing.

    command: what somebody typed, for whoever makes the run again.
    """
    ids = LogIds.new(run.path, spec.name, spec.hide, spec.secrets)
    try:
        with driver_log(ids), _with_events(run, command):
            yield ids
    except DgbatchError as error:
        if is_new and error.exit_code == 2 and not run.commits():
            withdraw(run.folder)
        raise


@contextmanager
def _with_events(run: Run, command: str) -> Iterator[None]:
    try:
        run.event("started", command=command)
        yield
    except RunCancelled as error:
        run.event("cancelled", reason=str(error))
        raise
    except KeyboardInterrupt:
        run.event("cancelled", reason="interrupted")
        raise RunCancelled(f"{run.path}: interrupted.") from None
    except DgbatchError as error:
        run.event("failed", reason=str(error))
        raise


def finish(run: Run, spec: JobSpec) -> Verification:
    """Prove the dataset, then call it complete."""
    verification = verify(run)
    if not verification.holds:
        run.forget_copies()
        raise RunFailed(f"{run.path}: the dataset does not hold: {verification}. See: dgbatch verify {run.path}")
    if spec.output.duckdb:
        Path(spec.output.duckdb).parent.mkdir(parents=True, exist_ok=True)
        write_duckdb(run, spec.output.duckdb)
    # It holds: all other counts of it are 0.
    run.event("completed", verified={name: getattr(verification, name) for name in ("input", "ok", "quarantined")})
    run.finalise()
    return verification
