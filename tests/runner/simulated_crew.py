"""Workers without processes: a crew that denoises rows of given lengths, in a time of its own.

It is what the driver sees of a real one: rows that are done count at once, those of a lost worker's open shards go
with it, and at the end idle workers take over halves.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dgbatch.runner.forecast import Forecast, Seen
from dgbatch.runner.spread import Spread

SHARES = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
OPEN_ROWS = 64  # a worker commits the rows it did when it has this many, and no sooner


@dataclass
class Worker:
    """Rows are numbers of steps."""

    name: str
    canvases: int
    step_s: float  # of one canvas alone
    more_s: float  # for each canvas that is in flight beside it
    next_at: float  # when its next step ends; at first: when it is loaded
    loaded: bool = False
    queue: deque[int] = field(default_factory=deque)
    flying: list[list[int]] = field(default_factory=list)  # steps left, steps in all
    done: list[int] = field(default_factory=list)  # not committed
    rows: int = 0  # since its start

    @property
    def idle(self) -> bool:
        return not self.queue and 2 * len(self.flying) <= self.canvases

    @property
    def seen(self) -> Seen:
        alone = (self.step_s + self.more_s) / (self.step_s + self.more_s * self.canvases)
        return Seen(self.name, self.rows, self.canvases if self.loaded else 0, self.loaded, self.idle, alone)


class Crew:
    def __init__(self, rows: Sequence[int], shard_rows: int = 64):
        self.now = 0.0
        self.total = len(rows)
        self.committed = 0
        self.lengths = Spread()
        self.workers: dict[str, Worker] = {}
        self._shards = deque(rows[i : i + shard_rows] for i in range(0, len(rows), shard_rows))

    def start(self, name: str, canvases: int, step_s: float = 0.05, more_s: float = 0.0, load_s: float = 0.0) -> None:
        self.workers[name] = Worker(name, canvases, step_s, more_s, self.now + load_s)

    def lose(self, name: str) -> None:
        """What it had not committed goes to others, done or not."""
        worker = self.workers.pop(name)
        self._shards.appendleft([*worker.done, *(steps for _, steps in worker.flying), *worker.queue])

    @property
    def done(self) -> int:
        return self.committed + sum(len(each.done) for each in self.workers.values())

    @property
    def left(self) -> int:
        return self.total - self.done

    def run_until(self, at: float) -> None:
        while self.left and self.workers:
            worker = min(self.workers.values(), key=lambda each: each.next_at)
            if worker.next_at > at:
                break
            self.now = worker.next_at
            self._step(worker)
        if self.left:
            self.now = at

    def _step(self, worker: Worker) -> None:
        worker.loaded = True
        while len(worker.queue) < 2 * worker.canvases and self._shards:
            worker.queue.extend(self._shards.popleft())
        if worker.idle:
            owner = max(self.workers.values(), key=lambda each: len(each.queue))
            worker.queue.extend([owner.queue.pop() for _ in range(len(owner.queue) // 2)])
        while worker.queue and len(worker.flying) < worker.canvases:
            steps = worker.queue.popleft()
            worker.flying.append([steps, steps])
        worker.next_at = self.now + worker.step_s + worker.more_s * len(worker.flying)
        for row in worker.flying:
            row[0] -= 1
            if not row[0]:
                worker.done.append(row[1])
                worker.rows += 1
                self.lengths.add(row[1])
        worker.flying = [row for row in worker.flying if row[0]]
        if len(worker.done) >= OPEN_ROWS:
            self.committed += len(worker.done)
            worker.done.clear()


@dataclass(frozen=True)
class Checked:
    """What was forecast at a moment, and what would have come, had the crew stayed as it was then."""

    share: float  # of the rows that were done
    eta_s: float | None
    truth_s: float

    @property
    def error(self) -> float:
        return float("inf") if self.eta_s is None else abs(self.eta_s / self.truth_s - 1)


def forecasts(
    crew: Crew, events: Sequence[tuple[float, Callable[[Crew], None]]] = (), shares: Sequence[float] = SHARES
) -> list[Checked]:
    """Run the crew to the end, looking each half second. events: what befalls it at these shares of the rows."""
    forecast, found = Forecast(), []
    coming, wanted = deque(sorted(events, key=lambda event: event[0])), deque(shares)
    while crew.left:
        while coming and crew.done >= coming[0][0] * crew.total:
            coming.popleft()[1](crew)
        forecast.saw(crew.now, [each.seen for each in crew.workers.values()])
        while wanted and crew.done >= wanted[0] * crew.total:
            other = copy.deepcopy(crew)
            other.run_until(float("inf"))
            found.append(Checked(wanted.popleft(), forecast.eta_s(crew.left, crew.lengths), other.now - crew.now))
        crew.run_until(crew.now + 0.5)
    return found
