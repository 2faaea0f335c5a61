"""How long the driver thinks: Dispatch driven by simulated workers, without Ray, each call timed.

Time is simulated: a worker reports twice a second of it, does rows at its own speed, and now and then one dies. Calls
are measured in CPU time of this thread, so that other processes do not count and garbage collection does.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dgbatch.runner.dispatch import Dispatch
from dgbatch.runner.piece import Piece, Place
from dgbatch.runner.plan import Shard
from dgbatch.runner.poison import Blame

REPORT_S = 0.5  # between two reports of a worker, as in runner/worker.py
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class DispatchBench:
    """What is simulated."""

    workers: int = 1000
    shards: int = 20_000
    shard_rows: int = 512
    canvases: int = 48  # in flight in each worker
    rows_per_s: float = 100.0  # of a usual worker; they differ by half, and one in fifty takes five times as long
    deaths: float = 0.0002  # per report
    seed: int = 0


@dataclass(slots=True)
class SimulatedWorker:
    """What dispatch can see of a worker."""

    name: str
    rows_per_s: float
    due: dict[Place, Piece] = field(default_factory=dict)  # pieces it holds
    done: dict[Place, float] = field(default_factory=dict)  # rows that came back
    cuts: list[Place] = field(default_factory=list)  # what it is asked to cut with its next exchange

    def unstarted(self, canvases: int) -> list[tuple[Place, int]]:
        """As in a Report: in each piece, the rows behind those that are done or in the engine."""
        return [(at, max(0, each.rows - int(self.done[at]) - canvases)) for at, each in self.due.items()]

    def work(self, seconds: float) -> list[Place]:
        """Do rows of the pieces in order; those that are finished."""
        rows, finished = self.rows_per_s * seconds, []
        for place, piece in self.due.items():
            part = min(rows, piece.rows - self.done[place])
            self.done[place] += part
            rows -= part
            if self.done[place] >= piece.rows:
                finished.append(place)
        return finished


class Stopwatch:
    """Times every call of a decision, by name."""

    def __init__(self) -> None:
        self.ns: dict[str, list[int]] = {}

    def __call__(self, decide: Callable[..., Answer], *arguments: Any) -> Answer:
        started = time.thread_time_ns()
        answer = decide(*arguments)
        self.ns.setdefault(decide.__name__, []).append(time.thread_time_ns() - started)
        return answer


def bench_dispatch(asked: DispatchBench) -> dict[str, Any]:
    """Run a whole job through Dispatch. Returns calls, p50, p99 and max in ms of each kind of decision and of all."""
    chance = random.Random(asked.seed)
    rows = asked.shard_rows
    dispatch = Dispatch(Piece.whole(Shard(i, "f", 0, i * rows, rows, rows)) for i in range(asked.shards))
    clock = Stopwatch()
    crew = [SimulatedWorker(f"w{i}", _speed(chance, asked)) for i in range(asked.workers)]
    events = [(chance.random() * REPORT_S, number) for number in range(asked.workers)]
    heapq.heapify(events)
    committed = reports = cuts = deaths = 0
    now = 0.0
    while not dispatch.done:
        now, number = heapq.heappop(events)
        worker = crew[number]
        reports += 1
        if worker.due and chance.random() < asked.deaths:
            deaths += 1
            clock(dispatch.lost, worker.name, Blame("worker_killed", "the node is gone"))
            worker.due.clear()
            worker.done.clear()
        else:
            cuts += _answer_cuts(dispatch, clock, worker, asked)
            clock(dispatch.heard, worker.name, worker.unstarted(asked.canvases))
            for place in worker.work(REPORT_S):
                committed += worker.due.pop(place).rows
                del worker.done[place]
                clock(dispatch.finished, worker.name, place)
        _ask(dispatch, clock, worker, crew, asked)
        heapq.heappush(events, (now + REPORT_S, number))
    assert committed == asked.shards * rows, "a simulated row was lost or doubled"
    every = sorted(ns for calls in clock.ns.values() for ns in calls)
    return {
        "workers": asked.workers,
        "shards": asked.shards,
        "simulated_s": round(now, 1),
        "reports": reports,
        "cuts": cuts,
        "deaths": deaths,
        "decisions": {**{name: _told(sorted(calls)) for name, calls in clock.ns.items()}, "all": _told(every)},
    }


def _answer_cuts(dispatch: Dispatch, clock: Stopwatch, worker: SimulatedWorker, asked: DispatchBench) -> int:
    places, worker.cuts = worker.cuts, []
    cuts = 0
    for place in places:
        if place not in worker.due:
            continue  # finished meanwhile
        left = dict(worker.unstarted(asked.canvases))[place]
        piece = worker.due[place]
        at = piece.stop - left // 2 if left > 1 else None
        clock(dispatch.cut, worker.name, place, at)
        if at is not None:
            worker.due[place] = piece.cut(at)[0]
            cuts += 1
    return cuts


def _ask(
    dispatch: Dispatch, clock: Stopwatch, worker: SimulatedWorker, crew: list[SimulatedWorker], asked: DispatchBench
) -> None:
    """What the driver does with a worker that has room."""
    begun = sum(rows for _, rows in worker.unstarted(asked.canvases))
    if begun >= 2 * asked.canvases:
        return
    tasks = clock(dispatch.next_for, worker.name, 2 * asked.canvases - begun)
    for task in tasks:
        worker.due[task.piece.place] = task.piece
        worker.done[task.piece.place] = 0.0
    if not tasks and not worker.due:
        found = clock(dispatch.to_cut, worker.name, asked.canvases // 2)
        if found is not None:
            owner, place = found
            crew[int(owner[1:])].cuts.append(place)


def _speed(chance: random.Random, asked: DispatchBench) -> float:
    slow = 5.0 if chance.random() < 0.02 else 1.0
    return asked.rows_per_s * chance.uniform(0.5, 1.5) / slow


def _told(ns: list[int]) -> dict[str, float]:
    """calls and ms, of times in order."""
    at = {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}
    return {"calls": len(ns), **{name: round(ns[int(share * (len(ns) - 1))] / 1e6, 4) for name, share in at.items()}}
