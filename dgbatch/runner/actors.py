"""The worker processes of a job: started, asked, waited for and killed through Ray.

A worker is one actor process. Ray does not restart it: when it dies the driver starts a fresh actor, so that an answer
can never come from a process that has forgotten its shards.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dgbatch.records import EngineConfig
from dgbatch.runner.drain import draining_nodes, node_of
from dgbatch.runner.filming import filmed_shards
from dgbatch.runner.ray_session import ray_reason
from dgbatch.runner.report import Report
from dgbatch.runner.worker import Worker

if TYPE_CHECKING:
    from dgbatch.runner.crew import Crew
    from dgbatch.runner.logs.process_log import LogIds
    from dgbatch.runner.piece import Place, Task
    from dgbatch.runner.plan import Plan
    from dgbatch.runner.spec import JobSpec

LOG = logging.getLogger(__name__)
WAIT_S = 0.5  # longest wait for an answer before the driver looks around
ANSWER_S = 60.0  # to fetch an answer that is there


@dataclass(slots=True, eq=False)
class Actor:
    """One worker process as the driver sees it."""

    name: str
    handle: Any
    moved_at: float  # when it last showed a sign of work, or had none to do
    report: Report = field(default_factory=Report)
    leaving: bool = False  # its node is being taken away


class Actors:
    """The processes of one crew. A worker has one exchange in flight at most."""

    def __init__(self, spec: JobSpec, plan: Plan, run_path: str, engine: str, size: Crew, log: LogIds | None = None):
        self.spec, self.plan, self.run_path, self.engine, self.size = spec, plan, run_path, engine, size
        self.log = log
        self.filmed = filmed_shards(plan.shards, spec.output.films)
        self._at_work: dict[str, Actor] = {}
        self._asked: dict[Any, Actor] = {}  # by the answer that will come, the oldest first

    def __iter__(self) -> Iterator[Actor]:
        return iter(self._at_work.values())

    def __len__(self) -> int:
        return len(self._at_work)

    @property
    def free_name(self) -> str | None:
        """Of a worker that may be started; None when the crew is complete."""
        if len(self) >= self.size.count:
            return None
        return next(name for name in (f"w{i}" for i in range(self.size.count)) if name not in self._at_work)

    def start(self, name: str, canvases: int | None = None) -> Actor:
        """A worker with this many canvases in flight; None: as many as the job says."""
        import ray

        said = None if self.spec.workers.canvases == "auto" else self.spec.workers.canvases
        config = EngineConfig(
            canvases=canvases or said,
            device="cuda" if self.size.gpus else "cpu",
            dtype=self.spec.model.dtype,
            threads=self.size.engine_threads,
        )
        needs = {"num_gpus": self.size.gpus, "num_cpus": self.size.cpus}
        remote = ray.remote(Worker).options(**needs, max_restarts=0, max_task_retries=0)
        handle = remote.remote(
            name, self.spec, self.plan.schema, self.run_path, config, self.engine,
            heed_sigterm=True, log=self.log, filmed=self.filmed,
        )  # fmt: skip
        LOG.info("%s is started", name)
        actor = self._at_work[name] = Actor(name, handle, moved_at=time.monotonic())
        return actor

    def ask(self, actor: Actor, tasks: Sequence[Task], cuts: Sequence[Place], closing_s: float | None) -> None:
        self._asked[actor.handle.exchange.remote(tasks, cuts, closing_s)] = actor

    def answers(self) -> Iterator[tuple[Actor, Report | str]]:
        """All answers that are there, if one comes in time; text is why a worker cannot answer any more."""
        import ray

        asked = list(self._asked)
        ready, _ = ray.wait(asked, num_returns=1, timeout=WAIT_S)
        if ready:
            ready, _ = ray.wait(asked, num_returns=len(asked), timeout=0)
        for answer in ready:
            actor = self._asked.pop(answer)
            try:
                report = ray.get(answer, timeout=ANSWER_S)
            except ray.exceptions.RayActorError as error:
                LOG.error("%s is gone", actor.name, extra={"trace": str(error)})  # all that Ray knows
                yield actor, f"the process of worker {actor.name} died: {ray_reason(error)}"
            except ray.exceptions.RayError as error:  # an exchange that raised, or could not be sent
                LOG.error("%s failed to answer", actor.name, extra={"trace": str(error)})
                yield actor, f"worker {actor.name} failed: {ray_reason(error)}"
            else:
                yield actor, report

    def on_draining_nodes(self) -> list[Actor]:
        """Workers that have to leave now, and have not been told."""
        nodes = draining_nodes()
        return [actor for actor in self if nodes and not actor.leaving and node_of(actor.handle) in nodes]

    def kill(self, actor: Actor) -> None:
        import ray

        del self._at_work[actor.name]
        self._asked = {answer: other for answer, other in self._asked.items() if other is not actor}
        ray.kill(actor.handle)
