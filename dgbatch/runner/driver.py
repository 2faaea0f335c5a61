"""The loop of a job: start workers, obey dispatch, commit, count. Ray itself is in actors.py and ray_session.py."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dgbatch.runner.actors import Actor, Actors
from dgbatch.runner.crew import crew
from dgbatch.runner.dispatch import Dispatch
from dgbatch.runner.ledger import Ledger, Tally
from dgbatch.runner.losses import Losses
from dgbatch.runner.metering.meter import Meter, Restart
from dgbatch.runner.model import ENGINE
from dgbatch.runner.piece import Piece, Place, Task
from dgbatch.runner.progress import OnProgress
from dgbatch.runner.ray_session import ray_session
from dgbatch.runner.roll_call import farewell, welcome
from dgbatch.runner.rounds import Rounds
from dgbatch.runner.stop_signals import StopSignals
from dgbatch.runner.telling import Telling
from dgbatch.runner.watchdog import STARTING

if TYPE_CHECKING:
    from dgbatch.runner.again import Again
    from dgbatch.runner.commits import Commit
    from dgbatch.runner.logs.process_log import LogIds
    from dgbatch.runner.plan import Plan
    from dgbatch.runner.report import Failure, Report
    from dgbatch.runner.run_folder import Run
    from dgbatch.runner.spec import JobSpec

LOG = logging.getLogger(__name__)
DRAIN_S = 15.0  # what rows in an engine get to finish after Ctrl-C or SIGTERM
LAST_WORD_S = 5.0  # to write down and tell what was done until then


def run_job(
    spec: JobSpec,
    plan: Plan,
    run: Run,
    on_progress: OnProgress | None = None,
    engine: str = ENGINE,
    drain_s: float = DRAIN_S,
    again: Mapping[int, Again] = MappingProxyType({}),
    ledger: Ledger | None = None,
    meter: Meter | None = None,
    log: LogIds | None = None,
) -> None:
    """Commit every shard of the plan that is not committed yet; with `again`, these rounds of retry by shard instead.

    ledger: of this run, where the caller has read it a moment ago. meter: counts what happens, for its metrics. log:
    whose lines the workers' are; None: they keep no log.
    Raises RunFailed when shards used up their attempts or after SIGTERM, RunCancelled after Ctrl-C, and what a worker
    could not load as the error it is.
    """
    expected = sum(each.samples for each in again.values()) or plan.expected
    telling = Telling(spec.name, run.path, expected, len(again or plan.shards), on_progress or (lambda progress: None))
    ledger = run.ledger() if ledger is None else ledger
    driver = Driver(spec, plan, run, telling, drain_s, again, ledger, meter or Meter(spec, run, ledger))
    if not driver.dispatch.done:
        telling.say(STARTING)
        telling.tell(driver.so_far, [])
        with ray_session(spec.workers.address) as resources, StopSignals() as stop:
            size = crew(spec.workers, resources)
            LOG.info(
                "%d pieces of %d shards are to do, by at most %d workers of %g GPUs and %g CPUs each",
                len(driver.dispatch.pending), len(again or plan.shards), size.count, size.gpus, size.cpus,
            )  # fmt: skip
            driver.work(Actors(spec, plan, run.path, engine, size, log), stop)
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
        meter: Meter,
    ):
        self.ledger, self.meter = ledger, meter
        self.spec, self.plan, self.run, self.telling, self.drain_s = spec, plan, run, telling, drain_s
        self.again = again
        self.tried_again = Tally()  # rounds of retry that are done: one of each shard
        if again:
            self.dispatch = Dispatch([each.queued for each in again.values()], spec.retry.shard_attempts)
        else:
            due = [Piece(shard, rows.start, rows.stop) for shard, rows in self.ledger.outstanding()]
            self.dispatch = Dispatch(due, spec.retry.shard_attempts, run.attempts(plan.shards))
        self.losses = Losses(spec, plan, run, self.dispatch, telling, meter, of_retry=bool(again))
        self.cuts: dict[str, list[Place]] = {}  # what to ask of a worker next time
        self.stopping_at: float | None = None
        self.rounds = Rounds(spec.retry.stall_timeout_s)
        self.losses.check_ratio(self.ledger)

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
                self.leave_draining_nodes()
                self.losses.keep(time.monotonic())
                self.tell()
        finally:
            self.dismiss(list(actors))
            self.losses.keep(time.monotonic(), at_once=True)
            self.measure(at_once=True)
        if self.stopping_at is not None and not self.dispatch.done:
            raise stop.error(self.run.path, self.so_far.shards, len(self.again or self.plan.shards))

    def judge(self) -> None:
        """Raise RunFailed when shards were given up."""
        self.losses.judge(self.tally.shards)

    @property
    def tally(self) -> Tally:
        return self.ledger.tally

    @property
    def so_far(self) -> Tally:
        """What is done of what there was to do: of a retry, only its own rows."""
        return self.tried_again if self.again else self.tally

    # ---- workers come and go

    def staff(self) -> None:
        """Start workers while there are pieces that no worker is free to take."""
        idle = len(self.actors) - self.dispatch.busy
        while self.stopping_at is None and len(self.dispatch.pending) > idle and (name := self.actors.free_name):
            self.ask(self.actors.start(name, self.losses.canvases.get(name)))
            idle += 1

    def ask(self, actor: Actor) -> None:
        """Send the next exchange, with as many pieces as the worker has room for."""
        tasks: list[Task] = []
        closing_s = None
        if self.stopping_at is not None:
            closing_s = max(0.0, self.stopping_at + self.drain_s - time.monotonic())
        elif actor.leaving:
            closing_s = self.drain_s
        elif actor.report.wants_rows:
            if not self.dispatch.held(actor.name):
                actor.moved_at = time.monotonic()
            tasks = self.dispatch.next_for(actor.name, actor.report.wants_rows)
            if tasks:
                taken = ", ".join(str(task.piece) for task in tasks)
                LOG.info("%s gets %s", actor.name, taken, extra={"shards": [task.piece.shard.index for task in tasks]})
            if actor.report.idle and not tasks:
                self.take_over(actor)
        if self.again:
            tasks = [self.again[task.piece.shard.index].of(task) for task in tasks]
        self.actors.ask(actor, tasks, self.cuts.pop(actor.name, ()), closing_s)

    def take_over(self, actor: Actor) -> None:
        """Nothing is left for this worker but what others have not begun. Less than half an engine is not worth it."""
        least = max(2, actor.report.canvases // (2 * self.plan.samples))
        if (found := self.dispatch.to_cut(actor.name, least)) is not None:
            owner, place = found
            self.cuts.setdefault(owner, []).append(place)

    def obey(self, actor: Actor, report: Report) -> None:
        """Do what a report asks for: commit, count, send pieces elsewhere, ask again."""
        if report.loaded and not actor.report.loaded:
            self.greet(actor, report)
        if report.heartbeat != actor.report.heartbeat or report.receipts or not self.dispatch.held(actor.name):
            actor.moved_at = time.monotonic() if report.loaded else actor.moved_at
        actor.report = report
        for place, at in report.cuts:
            self.cut(actor, place, at)
        self.dispatch.heard(actor.name, report.unstarted)
        for receipt in report.receipts:
            self.commit(actor, receipt)
        for failure in report.failures:
            self.losses.piece_failed(actor, failure)
        for place in report.probed:
            self.dispatch.probed(actor.name, place)
            self.losses.probed()
        if report.fatal is not None:
            self.broken(actor, report.fatal)
        elif report.gone:
            self.losses.worker_left(actor, preempted=self.stopping_at is None)
            self.dismiss([actor])
        else:
            self.ask(actor)

    def cut(self, actor: Actor, place: Place, at: int | None) -> None:
        self.dispatch.cut(actor.name, place, at)
        if at is not None:
            self.event("shard_cut", shard=place[0], first=place[1], stop=at, worker=actor.name)

    def greet(self, actor: Actor, report: Report) -> None:
        """The first report of a loaded worker."""
        welcome(self.run, self.spec, actor.name, report)
        self.telling.quiet(at_once=True)

    def commit(self, actor: Actor, receipt: Commit) -> None:
        receipt = replace(receipt, committed_at=datetime.now(timezone.utc).isoformat(timespec="milliseconds"))
        started = time.monotonic()
        won = self.run.commit(receipt, self.ledger)
        if won:
            self.meter.committed(receipt, time.monotonic() - started)
        if (each := self.again.get(receipt.shard)) and self.ledger.has_round(receipt.shard, each.round):
            self.tried_again += Tally(shards=1, ok=each.samples)
        first, stop = receipt.span or (0, None)
        LOG.info(
            "shard %d%s by %s %s", receipt.shard, "" if stop is None else f", rows {first} to {stop - 1},", actor.name,
            "committed" if won else "came second", extra={"shards": [receipt.shard]},
        )  # fmt: skip
        self.dispatch.finished(actor.name, (receipt.shard, first), stop)
        self.losses.came_through(receipt.ok)
        self.telling.quiet()
        self.losses.check_ratio(self.ledger)

    # ---- what goes wrong

    def broken(self, actor: Actor, fatal: Failure) -> None:
        """The engine of a worker is gone, and its process with it."""
        if actor.report.loaded:
            why: Restart = "out_of_memory" if fatal.out_of_memory else "engine_failed"
            self.lost(actor, f"the engine of worker {actor.name} failed: {fatal}", why)
        else:
            fatal.raise_for_user()
            self.lost(actor, f"worker {actor.name} could not load the checkpoint: {fatal}", "load_failed")

    def lost(self, actor: Actor, reason: str, why: Restart = "died") -> None:
        """A worker is gone: its pieces go to others, and `staff` fills its place."""
        self.dismiss([actor])
        self.losses.worker_lost(actor, reason, why)
        self.losses.check_ratio(self.ledger)
        self.tell()

    def dismiss(self, actors: Sequence[Actor]) -> None:
        for actor in actors:
            self.actors.kill(actor)
            self.telling.lost(actor)
            self.cuts.pop(actor.name, None)
        farewell(self.run, [(actor.name, actor.report) for actor in actors])

    def replace_silent(self) -> None:
        """Kill workers that have shown no step for too long."""
        for actor, reason in self.rounds.silent(self.actors):
            self.lost(actor, reason, "stalled")

    def leave_draining_nodes(self) -> None:
        """Workers on nodes that Ray is about to take away begin nothing more, and hand over what they did."""
        for actor in self.rounds.leaving(self.actors.on_draining_nodes):
            actor.leaving = True
            self.event("node_draining", worker=actor.name)

    def stopped(self, stop: StopSignals) -> bool:
        """Whether to leave now. After the first signal rows in the engines may finish; not after two."""
        if not stop.count:
            return False
        if self.stopping_at is None:
            self.stopping_at = time.monotonic()
            self.event("stopping")
        late = time.monotonic() - self.stopping_at > self.drain_s + LAST_WORD_S
        self.telling.note = f"stopping: rows in work may finish, for {self.drain_s:g} s at most; Ctrl-C stops at once"
        return stop.count > 1 or late or not self.dispatch.busy

    # ---- what people see

    def event(self, kind: str, **fields: Any) -> None:
        self.run.event(kind, **fields)

    def say(self, note: str) -> None:
        self.telling.say(note)
        self.tell()

    def tell(self) -> None:
        self.telling.tell(self.so_far, list(self.actors))
        self.measure()

    def measure(self, at_once: bool = False) -> None:
        left = len(self.again or self.plan.shards) - self.so_far.shards
        self.meter.look(self.run, self.dispatch, self.actors, left, at_once)
