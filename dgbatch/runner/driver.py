"""The Ray loop: start workers, obey dispatch, commit, count. The only home of ray.

A worker is one actor process. Ray does not restart it: when it dies the driver starts a fresh actor, so that an answer
can never come from a process that has forgotten its shards.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from dgbatch import errors
from dgbatch.errors import DgbatchError, OutputError, RunCancelled, RunFailed
from dgbatch.records import EngineConfig
from dgbatch.runner.crew import Crew, crew
from dgbatch.runner.dispatch import Dispatch, Task
from dgbatch.runner.model import ENGINE
from dgbatch.runner.poison import Fate
from dgbatch.runner.progress import OnProgress, Progress, Rates
from dgbatch.runner.ray_session import ray_reason, ray_session
from dgbatch.runner.stop_signals import StopSignals
from dgbatch.runner.worker import Failure, Report, Worker

if TYPE_CHECKING:
    from dgbatch.runner.commits import Commit
    from dgbatch.runner.ledger import Tally
    from dgbatch.runner.plan import Plan
    from dgbatch.runner.run_folder import Run
    from dgbatch.runner.spec import JobSpec

WAIT_S = 0.5  # longest wait for an answer before the loop looks around
ANSWER_S = 60.0  # to fetch an answer that is there
TELL_S = 0.25  # between two updates of the display
NOTE_S = 5.0  # what a note stays on it at least, while the work goes on
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
) -> None:
    """Commit every shard of the plan that is not committed yet.

    Raises RunFailed when shards used up their attempts, RunCancelled after Ctrl-C, and what a worker could not load as
    the error it is.
    """
    driver = Driver(spec, plan, run, on_progress or (lambda progress: None), engine, drain_s)
    if not driver.dispatch.done:
        driver.say("starting Ray")
        with ray_session(spec.workers.address) as resources, StopSignals() as stop:
            driver.work(crew(spec.workers, resources), stop)
    driver.judge()


@dataclass(slots=True, eq=False)
class Actor:
    """One worker process as the driver sees it."""

    name: str
    handle: Any
    moved_at: float  # when it last showed a sign of work, or had none to do
    report: Report = field(default_factory=Report)


class Driver:
    """Owns the state of the job while it runs."""

    def __init__(self, spec: JobSpec, plan: Plan, run: Run, on_progress: OnProgress, engine: str, drain_s: float):
        self.ledger = run.ledger()
        self.spec, self.plan, self.run = spec, plan, run
        self.on_progress, self.engine, self.drain_s = on_progress, engine, drain_s
        tries = {index: each for index, each in run.attempts(plan.shards).items() if not self.ledger.is_done(index)}
        self.dispatch = Dispatch(
            (shard for shard in plan.shards if not self.ledger.is_done(shard.index)), spec.retry.shard_attempts, tries
        )
        self.actors: list[Actor] = []
        self.asked: dict[Any, Actor] = {}  # the exchange in flight of each actor, the oldest first
        self.idle_deaths = self.search_deaths = 0
        self.reasons: dict[int, str] = {}  # why a shard failed last
        self.stopping_at: float | None = None
        self.checksum: str | None = run.info.get("model", {}).get("checksum")
        self.rates = Rates()
        self.lost_tokens = 0  # of workers that are gone: rates must not fall when one dies
        self.started_at = time.monotonic()
        self.told_at = 0.0
        self.note, self.noted_at = "", 0.0
        self.check_failed_ratio()

    def work(self, size: Crew, stop: StopSignals) -> None:
        self.say("loading the checkpoint")
        try:
            while not self.dispatch.done and not self.stopped(stop):
                self.staff(size)
                for actor, report in self.answers():
                    self.obey(actor, report)
                self.replace_silent()
                self.tell()
        finally:
            self.dismiss()
        if self.stopping_at is not None and not self.dispatch.done:
            done, shards = self.tally.shards, len(self.plan.shards)
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

    # ---- workers come and go

    def staff(self, size: Crew) -> None:
        """Start workers while there are shards that no worker is free to take."""
        idle = sum(not self.dispatch.held(actor.name) for actor in self.actors)
        while self.stopping_at is None and len(self.actors) < size.count and len(self.dispatch.pending) > idle:
            self.start(size)
            idle += 1

    def start(self, size: Crew) -> None:
        import ray

        taken = {actor.name for actor in self.actors}
        name = next(name for name in (f"w{i}" for i in range(size.count)) if name not in taken)
        config = EngineConfig(
            canvases=None if self.spec.workers.canvases == "auto" else self.spec.workers.canvases,
            device="cuda" if size.gpus else "cpu",
            dtype=self.spec.model.dtype,
            threads=size.engine_threads,
        )
        remote = ray.remote(Worker).options(num_gpus=size.gpus, num_cpus=size.cpus, max_restarts=0, max_task_retries=0)
        handle = remote.remote(name, self.spec, self.plan.schema, self.run.path, config, self.engine)
        actor = Actor(name, handle, moved_at=time.monotonic())
        self.actors.append(actor)
        self.ask(actor)

    def ask(self, actor: Actor) -> None:
        """Send the next exchange, with as many shards as the worker has room for."""
        tasks: list[Task] = []
        if self.stopping_at is None and actor.report.wants_rows:
            if not self.dispatch.held(actor.name):
                actor.moved_at = time.monotonic()
            tasks = self.dispatch.next_for(actor.name, actor.report.wants_rows)
        self.asked[actor.handle.exchange.remote(tasks, closing=self.stopping_at is not None)] = actor

    def answers(self) -> Iterator[tuple[Actor, Report]]:
        """The next answer that is there, if one comes in time; a worker that cannot answer is lost."""
        import ray

        ready, _ = ray.wait(list(self.asked), num_returns=1, timeout=WAIT_S)
        for answer in ready:
            actor = self.asked.pop(answer)
            try:
                report = ray.get(answer, timeout=ANSWER_S)
            except ray.exceptions.RayActorError as error:
                self.lost(actor, f"the process of worker {actor.name} died: {ray_reason(error)}")
            except ray.exceptions.RayError as error:  # an exchange that raised, or could not be sent
                self.lost(actor, f"worker {actor.name} failed: {ray_reason(error)}")
            else:
                yield actor, report

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
        self.checksum = report.model_checksum
        if report.device not in self.run.canvases:
            self.run.note_canvases(report.device, report.canvases, report.curve)
        self.event(
            "worker_ready", worker=actor.name, where=report.where, device=report.device, canvases=report.canvases
        )
        self.note = ""

    def commit(self, actor: Actor, receipt: Commit) -> None:
        receipt = replace(receipt, committed_at=datetime.now(timezone.utc).isoformat(timespec="milliseconds"))
        self.run.commit(receipt, self.ledger)
        self.dispatch.finished(actor.name, receipt.shard)
        self.idle_deaths = 0
        self.search_deaths = 0 if receipt.ok else self.search_deaths
        if time.monotonic() - self.noted_at > NOTE_S:
            self.note = ""
        self.check_failed_ratio()

    def check_failed_ratio(self) -> None:
        expected, most = self.plan.expected, self.spec.retry.max_failed_ratio
        quarantined = self.tally.quarantined + self.dispatch.poison_rows * self.plan.samples
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
        import ray

        held = [shard.index for shard in self.dispatch.held(actor.name)]
        self.reasons.update(dict.fromkeys(held, reason))
        fate = self.dispatch.lost(actor.name, reason)
        self.actors.remove(actor)
        self.asked = {answer: other for answer, other in self.asked.items() if other is not actor}
        self.lost_tokens += actor.report.stats.tokens
        ray.kill(actor.handle)
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
        self.note = f"stopping: {shards} may finish, for {self.drain_s:g} s at most; Ctrl-C again stops at once"
        return stop.count > 1 or late or not running

    def dismiss(self) -> None:
        import ray

        for actor in self.actors:
            ray.kill(actor.handle)
        self.actors, self.asked = [], {}

    # ---- what people see

    def event(self, kind: str, **fields: Any) -> None:
        self.run.event(kind, **fields)

    def say(self, note: str) -> None:
        self.note, self.told_at = note, 0.0
        self.noted_at = time.monotonic()
        self.tell()

    def tell(self) -> None:
        now = time.monotonic()
        if now - self.told_at < TELL_S:
            return
        self.told_at = now
        stats = [actor.report.stats for actor in self.actors]
        rows = self.tally.rows + sum(actor.report.open_rows for actor in self.actors)
        if any(actor.report.loaded for actor in self.actors):
            self.rates.add(now, rows, self.lost_tokens + sum(each.tokens for each in stats))
        canvases = sum(each.canvases for each in stats) or self.tally.canvases
        steps = sum(each.denoise_steps for each in stats) or self.tally.denoise_steps
        self.on_progress(
            Progress(
                state="in_progress",
                name=self.spec.name,
                path=self.run.path,
                expected=self.plan.expected,
                rows=rows,
                quarantined=self.tally.quarantined,
                shards=len(self.plan.shards),
                shards_done=self.tally.shards,
                tokens_per_s=self.rates.tokens_per_s,
                rows_per_s=self.rates.rows_per_s,
                steps_per_canvas=steps / canvases if canvases else None,
                workers=sum(actor.report.loaded for actor in self.actors),
                elapsed_s=now - self.started_at,
                note=self.note,
            )
        )


def raise_for_user(failure: Failure) -> None:
    """What a worker could not load, as the error it is, when it is one that people can mend."""
    kind = getattr(errors, failure.kind, None)
    if isinstance(kind, type) and issubclass(kind, DgbatchError):
        raise kind(failure.message)
