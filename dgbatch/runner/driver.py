"""The loop of a job: start workers, obey dispatch, commit, count. Ray itself is in actors.py and ray_session.py."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dgbatch import errors
from dgbatch.errors import DgbatchError, OutputError, RunCancelled, RunFailed
from dgbatch.runner.actors import Actor, Actors
from dgbatch.runner.crew import crew
from dgbatch.runner.dispatch import Dispatch, Task
from dgbatch.runner.ledger import Ledger, Tally
from dgbatch.runner.model import ENGINE
from dgbatch.runner.poison import Fate
from dgbatch.runner.progress import OnProgress
from dgbatch.runner.ray_session import ray_session
from dgbatch.runner.stop_signals import StopSignals
from dgbatch.runner.telling import Telling

if TYPE_CHECKING:
    from dgbatch.runner.again import Again
    from dgbatch.runner.commits import Commit
    from dgbatch.runner.plan import Plan
    from dgbatch.runner.report import Failure, Report
    from dgbatch.runner.run_folder import Run
    from dgbatch.runner.spec import JobSpec

DRAIN_S = 15.0  # what running shards get to finish after Ctrl-C
LOAD_TIMEOUT_S = 3600.0  # a place in the cluster, the download and the load of a large checkpoint
IDLE_DEATHS = 3  # workers lost in a row with no shard in their hands before the run fails
SEARCH_DEATHS = 60  # the same for workers lost to searches for poison rows, while nothing at all comes through


def run_job(
    spec: JobSpec,
    plan: Plan,
    run: Run,
    on_progress: OnProgress | None = None,
    engine: str = ENGINE,
    drain_s: float = DRAIN_S,
    again: Mapping[int, Again] = MappingProxyType({}),
    ledger: Ledger | None = None,
) -> None:
    """Commit every shard of the plan that is not committed yet; with `again`, these rounds of retry by shard instead.

    ledger: of this run, where the caller has read it a moment ago.
    Raises RunFailed when shards used up their attempts, RunCancelled after Ctrl-C, and what a worker could not load as
    the error it is.
    """
    expected = sum(each.samples for each in again.values()) or plan.expected
    telling = Telling(spec.name, run.path, expected, len(again or plan.shards), on_progress or (lambda progress: None))
    driver = Driver(spec, plan, run, telling, drain_s, again, run.ledger() if ledger is None else ledger)
    if not driver.dispatch.done:
        telling.say("starting Ray")
        telling.tell(driver.so_far, [])
        with ray_session(spec.workers.address) as resources, StopSignals() as stop:
            driver.work(Actors(spec, plan, run.path, engine, crew(spec.workers, resources)), stop)
    driver.judge()


class Driver:
    """Owns the state of the job while it runs."""

    actors: Actors  # from `work` on

    def __init__(
        self,
        spec: JobSpec,
        plan: Plan,
        run: Run,
        telling: Telling,
        drain_s: float,
        again: Mapping[int, Again],
        ledger: Ledger,
    ):
        self.ledger = ledger
        self.spec, self.plan, self.run, self.telling, self.drain_s = spec, plan, run, telling, drain_s
        self.again = again
        if again:
            self.dispatch = Dispatch([each.queued for each in again.values()], spec.retry.shard_attempts)
        else:
            due = [shard for shard in plan.shards if not self.ledger.is_done(shard.index)]
            tries = {index: each for index, each in run.attempts(plan.shards).items() if not self.ledger.is_done(index)}
            self.dispatch = Dispatch(due, spec.retry.shard_attempts, tries)
        self.idle_deaths = self.search_deaths = 0
        self.reasons: dict[int, str] = {}  # why a shard failed last
        self.stopping_at: float | None = None
        self.checksum: str | None = run.info.get("model", {}).get("checksum")
        self.check_failed_ratio()

    def work(self, actors: Actors, stop: StopSignals) -> None:
        self.actors = actors
        self.say("loading the checkpoint")
        try:
            while not self.dispatch.done and not self.stopped(stop):
                self.staff()
                for actor, answer in actors.answers():
                    if isinstance(answer, str):
                        self.lost(actor, answer)
                    else:
                        self.obey(actor, answer)
                self.replace_silent()
                self.tell()
        finally:
            actors.dismiss()
        if self.stopping_at is not None and not self.dispatch.done:
            done, shards = self.so_far.shards, len(self.again or self.plan.shards)
            raise RunCancelled(f"{self.run.path}: stopped with {done:,} of {shards:,} shards committed.")

    def judge(self) -> None:
        """Raise RunFailed when shards were given up."""
        if not self.dispatch.given_up:
            return
        index, shard = next(iter(self.dispatch.given_up.items()))
        others = len(self.dispatch.given_up) - 1
        raise RunFailed(
            f"shard {index} ({shard.file}, row group {shard.row_group}, rows {shard.first_row} to "
            f"{shard.first_row + shard.rows - 1}) failed {self.dispatch.tries[index].attempts} times"
            + (f", and {others} more shards did" if others else "")
            + f". Last reason: {self.reasons.get(index, 'unknown').rstrip('.')}. {self.tally.shards:,} of "
            f"{len(self.plan.shards):,} shards are committed and stay so."
        )

    @property
    def tally(self) -> Tally:
        return self.ledger.tally

    @property
    def so_far(self) -> Tally:
        """What is done of what there was to do: of a retry, only its own rows."""
        if not self.again:
            return self.tally
        done = [each.samples for index, each in self.again.items() if self.ledger.has_round(index, each.round)]
        return Tally(shards=len(done), ok=sum(done))

    # ---- workers come and go

    def staff(self) -> None:
        """Start workers while there are shards that no worker is free to take."""
        idle = sum(not self.dispatch.held(actor.name) for actor in self.actors)
        while self.stopping_at is None and len(self.dispatch.pending) > idle and (name := self.actors.free_name):
            self.ask(self.actors.start(name))
            idle += 1

    def ask(self, actor: Actor) -> None:
        """Send the next exchange, with as many shards as the worker has room for."""
        tasks: list[Task] = []
        if self.stopping_at is None and actor.report.wants_rows:
            if not self.dispatch.held(actor.name):
                actor.moved_at = time.monotonic()
            tasks = self.dispatch.next_for(actor.name, actor.report.wants_rows)
            if self.again:
                tasks = [self.again[task.shard.index].of(task) for task in tasks]
        self.actors.ask(actor, tasks, closing=self.stopping_at is not None)

    def obey(self, actor: Actor, report: Report) -> None:
        """Do what a report asks for: commit, count, send shards elsewhere, ask again."""
        if report.loaded and not actor.report.loaded:
            self.greet(actor, report)
        if report.heartbeat != actor.report.heartbeat or report.receipts or not self.dispatch.held(actor.name):
            actor.moved_at = time.monotonic() if report.loaded else actor.moved_at
        actor.report = report
        for receipt in report.receipts:
            self.commit(actor, receipt)
        for failure in report.failures:
            self.shard_failed(actor, failure)
        for index in report.probed:
            self.dispatch.probed(actor.name, index)
            self.run.note_attempts(self.dispatch.tries)
            self.idle_deaths = self.search_deaths = 0
        if report.fatal is None:
            self.ask(actor)
        elif report.loaded:
            self.lost(actor, f"the engine of worker {actor.name} failed: {report.fatal}")
        else:
            raise_for_user(report.fatal)
            self.lost(actor, f"worker {actor.name} could not load the checkpoint: {report.fatal}")

    def greet(self, actor: Actor, report: Report) -> None:
        """The first report of a loaded worker: all workers of a run must have the very same model."""
        if self.checksum and report.model_checksum != self.checksum:
            raise OutputError(
                f"{self.run.path}: this run was started with a checkpoint of checksum {self.checksum[:12]}, and worker "
                f"{actor.name} found {report.model_checksum[:12]} at {self.spec.model.checkpoint}. Put the old files "
                "back, or start anew with --new-run."
            )
        if not self.checksum:
            self.run.note_model(report.model_checksum)
        self.checksum = report.model_checksum
        if report.device not in self.run.canvases:
            self.run.note_canvases(report.device, report.canvases, report.curve)
        self.event(
            "worker_ready", worker=actor.name, where=report.where, device=report.device, canvases=report.canvases
        )
        self.telling.quiet(at_once=True)

    def commit(self, actor: Actor, receipt: Commit) -> None:
        receipt = replace(receipt, committed_at=datetime.now(timezone.utc).isoformat(timespec="milliseconds"))
        self.run.commit(receipt, self.ledger)
        self.dispatch.finished(actor.name, receipt.shard)
        self.idle_deaths = 0
        self.search_deaths = 0 if receipt.ok else self.search_deaths
        self.telling.quiet()
        self.check_failed_ratio()

    def check_failed_ratio(self) -> None:
        expected, most = self.plan.expected, self.spec.retry.max_failed_ratio
        poisoned = 0 if self.again else self.dispatch.poison_rows * self.plan.samples  # those of a retry were counted
        quarantined = self.tally.quarantined + poisoned
        if quarantined > most * expected:
            raise RunFailed(
                f"{self.run.path}: {quarantined:,} of {expected:,} rows are quarantined, more than "
                f"retry.max_failed_ratio {most:g} allows. See why: "
                f'dgbatch sql {self.run.path} "select error_code, count(*) from quarantine group by 1"'
            )

    # ---- what goes wrong

    def shard_failed(self, actor: Actor, failure: Failure) -> None:
        assert failure.shard is not None
        self.reasons[failure.shard] = str(failure)
        again = self.dispatch.failed(actor.name, failure.shard)
        self.run.note_attempts(self.dispatch.tries)
        self.event("shard_failed", shard=failure.shard, worker=actor.name, reason=str(failure), again=again)
        self.say(f"shard {failure.shard} failed: {failure.message[:100]}")

    def lost(self, actor: Actor, reason: str) -> None:
        """A worker is gone: its shards go to others, and `staff` fills its place."""
        held = [shard.index for shard in self.dispatch.held(actor.name)]
        self.reasons.update(dict.fromkeys(held, reason))
        fate = self.dispatch.lost(actor.name, reason)
        self.actors.kill(actor)
        self.telling.lost(actor.report)
        self.event("worker_lost", worker=actor.name, reason=reason, shards=held)
        self.say(f"{reason[:120]}; starting another")
        if held:
            self.run.note_attempts(self.dispatch.tries)
        if len(held) == 1:
            self.search(held[0], fate, reason)
        if not held:
            self.idle_deaths += 1
            if self.idle_deaths >= IDLE_DEATHS:
                raise RunFailed(f"{IDLE_DEATHS} workers in a row were lost before they did anything: {reason}.")

    def search(self, index: int, fate: Fate, reason: str) -> None:
        """Tell how the search for the rows that kill goes on, and end the run when all that is tried dies."""
        search = self.dispatch.tries[index].search
        if fate == "searching":
            self.event("searching", shard=index, rows=search.high - search.low)
            self.say(f"shard {index} kills its workers: looking for the row")
        elif fate == "poisoned":
            row = next(reversed(search.poison))
            self.event("row_poisoned", shard=index, row=row, reason=reason)
            self.say(f"row {row} of shard {index} kills its worker: it goes to quarantine")
            self.check_failed_ratio()
        self.search_deaths += search.on
        if self.search_deaths >= SEARCH_DEATHS:
            self.dispatch.acquit()
            self.run.note_attempts(self.dispatch.tries)
            raise RunFailed(f"{SEARCH_DEATHS} workers in a row were lost, whichever rows they had: {reason}.")

    def replace_silent(self) -> None:
        """Kill workers that have shown no step for too long."""
        for actor in list(self.actors):
            limit = self.spec.retry.stall_timeout_s if actor.report.loaded else LOAD_TIMEOUT_S
            if time.monotonic() - actor.moved_at > limit:
                doing = "made no step" if actor.report.loaded else "was not ready"
                self.lost(actor, f"worker {actor.name} {doing} for {limit:g} s and was killed")

    def stopped(self, stop: StopSignals) -> bool:
        """Whether to leave now. The first Ctrl-C lets running shards finish for a while, the second one does not."""
        if not stop.count:
            return False
        if self.stopping_at is None:
            self.stopping_at = time.monotonic()
            self.event("stopping")
        late = time.monotonic() - self.stopping_at > self.drain_s
        running = sum(len(self.dispatch.held(actor.name)) for actor in self.actors)
        shards = "1 shard" if running == 1 else f"{running} shards"
        self.telling.note = f"stopping: {shards} may finish, for {self.drain_s:g} s at most; Ctrl-C again stops at once"
        return stop.count > 1 or late or not running

    # ---- what people see

    def event(self, kind: str, **fields: Any) -> None:
        self.run.event(kind, **fields)

    def say(self, note: str) -> None:
        self.telling.say(note)
        self.tell()

    def tell(self) -> None:
        self.telling.tell(self.so_far, [actor.report for actor in self.actors])


def raise_for_user(failure: Failure) -> None:
    """What a worker could not load, as the error it is, when it is one that people can mend."""
    kind = getattr(errors, failure.kind, None)
    if isinstance(kind, type) and issubclass(kind, DgbatchError):
        raise kind(failure.message)
