"""What happens in a driver, counted for its metrics. It owns what commits cannot tell, and makes a Moment of all of it.

The driver's thread alone calls it. `moment` is replaced whole, so another thread may read it at any time.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from dgbatch.runner.metering.moment import Moment, WorkerMoment, WorkerState
from dgbatch.runner.metrics import COMMIT_BOUNDS
from dgbatch.runner.storage.store_uri import is_uri
from dgbatch.runner.sums import Histogram
from dgbatch.runner.versions import versions

if TYPE_CHECKING:
    from dgbatch.records import EngineStats
    from dgbatch.runner.actors import Actor
    from dgbatch.runner.commits import Commit
    from dgbatch.runner.dispatch import Dispatch
    from dgbatch.runner.ledger import Ledger
    from dgbatch.runner.progress import Progress, State
    from dgbatch.runner.report import Report
    from dgbatch.runner.run_folder import Run
    from dgbatch.runner.spec import JobSpec

Retry = Literal["shard_failed", "worker_lost", "out_of_memory", "preempted", "probe"]
Restart = Literal["died", "stalled", "engine_failed", "out_of_memory", "load_failed", "preempted"]
LOOK_S = 0.25  # between two moments
STEP = ("denoise", "sample")  # phases of a denoising step
WINDOW_S = 30.0  # what the ratios of a worker are taken over: several steps, also of a slow device


class Meter:
    """Counts for one submit of one run."""

    def __init__(self, spec: JobSpec, run: Run, ledger: Ledger):
        started_at = _seconds(run.info["created_at"])
        deadline_s = spec.metrics.deadline_s
        last = max((commit.committed_at for commit in ledger.counted), default=None)
        self._ledger, self._info = ledger, run.info
        self._retries: Counter[str] = Counter()
        self._restarts: Counter[str] = Counter()
        self._recent: dict[str, Recent] = {}
        self._looked_at = 0.0
        self._codes: set[str] = set()
        shards = len(run.plan.shards)
        self.moment = Moment(
            job=spec.name,
            run=spec.hide(run.path),
            model=spec.hide(spec.model.checkpoint),
            checksum=_short(run),
            versions=versions(),
            started_at=started_at,
            expected=run.plan.expected,
            shards={"committed": ledger.tally.shards, "pending": shards - ledger.tally.shards},
            **self._committed(),
            judged=spec.accept is not None,
            last_commit_at=None if last is None else _seconds(last),
            deadline_at=None if deadline_s is None else started_at + deadline_s,
            free_path=None if is_uri(run.path) else run.path,
        )

    # ---- what happens

    def committed(self, commit: Commit, seconds: float) -> None:
        """A record was published."""
        self.moment = replace(
            self.moment,
            **self._committed(),
            commit_duration=self.moment.commit_duration + Histogram.of(COMMIT_BOUNDS, [seconds]),
            last_commit_at=_seconds(commit.committed_at),
        )

    def retried(self, reason: Retry, pieces: int = 1) -> None:
        """Pieces have to be given out again."""
        self._retries[reason] += pieces

    def restarted(self, reason: Restart) -> None:
        """A worker is gone, and its place is free for another."""
        self._restarts[reason] += 1

    def told(self, progress: Progress) -> None:
        """What people are shown: the state, and the time that is left."""
        self.moment = replace(self.moment, state=progress.state, eta_s=progress.eta_s)

    def look(self, run: Run, dispatch: Dispatch, actors: Iterable[Actor], left: int, at_once: bool = False) -> None:
        """The job as it is now, unless that was seen a moment ago. left: shards that are not done."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_S and not at_once:
            return
        self._looked_at = now
        at_work = list(actors)
        running = {piece.shard.index for actor in at_work for piece in dispatch.held(actor.name)}
        given_up = {piece.shard.index for piece in dispatch.given_up.values()} - running
        shards = {
            "committed": len(run.plan.shards) - left,
            "running": len(running),
            "given_up": len(given_up),
            "pending": max(0, left - len(running) - len(given_up)),
        }
        names = {actor.name for actor in at_work}
        self._recent = {name: recent for name, recent in self._recent.items() if name in names}
        self.moment = replace(
            self.moment,
            **self._committed(),
            checksum=_short(run),
            shards=shards,
            retries=dict(self._retries),
            restarts=dict(self._restarts),
            still_since=min((actor.moved_at for actor in at_work if dispatch.held(actor.name)), default=None),
            workers=tuple(self._worker(actor, bool(dispatch.held(actor.name)), now) for actor in at_work),
        )

    def ended(self, state: State) -> None:
        """Nobody works any more."""
        self.moment = replace(
            self.moment,
            state=state,
            **self._committed(),
            eta_s=0.0 if state == "completed" else None,
            still_since=None,
            retries=dict(self._retries),
            restarts=dict(self._restarts),
            workers=(),
        )

    # ---- inside

    def _committed(self) -> dict[str, Any]:
        """What the records come to."""
        tally = self._ledger.tally
        self._codes |= {code for code, _ in tally.sums.quarantined}
        return {"tally": tally, "commits": self._ledger.commits, "codes": tuple(sorted(self._codes))}

    def _worker(self, actor: Actor, holds: bool, now: float) -> WorkerMoment:
        report = actor.report
        recent = self._recent.setdefault(actor.name, Recent())
        recent.add(now, report)
        return WorkerMoment(
            actor.name,
            _state(actor, holds),
            report.stats,
            report.canvases,
            recent.occupancy(report.canvases),
            recent.roofline,
        )


class Recent:
    """The last seconds of one worker: running totals, and what they grew by."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, EngineStats]] = deque()

    def add(self, now: float, report: Report) -> None:
        if self._seen and report.stats.passes < self._seen[-1][1].passes:
            self._seen.clear()  # another process bears the name now
        self._seen.append((now, report.stats))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW_S:
            self._seen.popleft()

    def occupancy(self, canvases: int) -> float:
        """Tiles in a pass, over canvases in flight."""
        first, last = self._seen[0][1], self._seen[-1][1]
        passes = last.passes - first.passes
        return (last.tiles - first.tiles) / passes / canvases if passes and canvases else 0.0

    @property
    def roofline(self) -> float | None:
        """The least that its denoising steps could have taken, over what they took."""
        first, last = self._seen[0][1], self._seen[-1][1]
        took = sum(last.seconds.get(phase, 0.0) - first.seconds.get(phase, 0.0) for phase in STEP)
        floor_s = last.floor_s - first.floor_s
        return floor_s / took if floor_s and took > 0 else None


def _state(actor: Actor, holds: bool) -> WorkerState:
    if not actor.report.loaded:
        return "starting"
    if actor.leaving:
        return "leaving"
    return "working" if holds else "idle"


def _short(run: Run) -> str:
    return (run.info.get("model", {}).get("checksum") or "")[:12]


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
