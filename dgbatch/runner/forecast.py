"""When the rows of a run will be done, from what each worker has done so far. Pure: the caller brings the clock.

The obvious answer, rows left by rows per second of late, is wrong for four reasons:

- Rows differ in length: the last seconds say little. What workers did counts for MEMORY_S or MEMORY_ROWS, the longer.
- Workers come and go. What is measured is rows per second of a worker's time; the workers that are there do the rest,
  those that are starting from when they will be ready.
- At a worker's start all its canvases begin at once, and the short rows come back first: n rows in a time stand for
  n - canvases * (cv2 - 1) / 2 (renewal theory; cv2 is the variance of the lengths by the square of their mean).
- The last rows end alone: when nothing is left to begin, the longest row in work decides.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import exp, inf

from dgbatch.runner.spread import Spread

MEMORY_S = 900.0
MEMORY_ROWS = 4000.0
PRIOR_ROWS = 8.0  # for each canvas, at the speed of all: what a worker's own rows have to stand against
LATE = 3.0  # who takes so many times as long as others to start is not waited for


@dataclass(frozen=True, slots=True)
class Seen:
    """One worker, as it was last heard of."""

    name: str
    rows: int  # done since its start
    canvases: int  # in flight at most
    loaded: bool
    idle: bool = False  # nothing to begin
    alone: float = 1.0  # a step of one canvas by a step of all


@dataclass(slots=True)
class Pace:
    """Rows in a worker's time at work; both fade."""

    rows: float = 0.0
    seconds: float = 0.0
    canvases: float = 0.0  # that began at once

    def fade(self, factor: float) -> None:
        self.rows, self.seconds, self.canvases = self.rows * factor, self.seconds * factor, self.canvases * factor

    def add(self, other: Pace) -> None:
        self.rows += other.rows
        self.seconds += other.seconds
        self.canvases += other.canvases

    def even_rows(self, cv2: float) -> float:
        """Rows that it would have done, had not all canvases begun at once."""
        return self.rows - max(-self.rows / 2, min(self.rows / 2, self.canvases * (cv2 - 1) / 2))


@dataclass(slots=True)
class _Known:
    seen: Seen
    since: float
    pace: Pace


class Forecast:
    """Call `saw` with every worker now and then, `eta_s` when somebody asks."""

    def __init__(self) -> None:
        self._crew: dict[str, _Known] = {}
        self._gone = Pace()
        self._load_s: list[float] = []
        self._at = 0.0

    def saw(self, now: float, crew: Collection[Seen]) -> None:
        """The workers that there are; one with fewer rows than before is another of the same name."""
        passed, self._at = now - self._at, now
        for name in self._crew.keys() - {each.name for each in crew}:
            self._gone.add(self._crew.pop(name).pace)
        fresh = 0
        for each in crew:
            known = self._crew.get(each.name)
            if known is not None and (each.rows < known.seen.rows or known.seen.loaded > each.loaded):
                self._gone.add(known.pace)
                known = None
            if known is None:
                known = self._crew[each.name] = _Known(each, now, Pace())
            rows = each.rows - known.seen.rows
            if each.loaded and not known.pace.canvases:
                self._load_s.append(now - known.since)
                known.pace.canvases = each.canvases
            elif each.loaded and not each.idle:
                known.pace.seconds += passed
            known.pace.rows += rows
            known.seen = each
            fresh += rows
        factor = exp(-min(passed / MEMORY_S, fresh / MEMORY_ROWS))
        for pace in (self._gone, *(known.pace for known in self._crew.values())):
            pace.fade(factor)

    def eta_s(self, left: int, spread: Spread) -> float | None:
        """Seconds until this many more rows are done if the workers stay as they are; None: nobody can know yet."""
        if left <= 0:
            return 0.0
        every = Pace()
        for pace in (self._gone, *(known.pace for known in self._crew.values())):
            every.add(pace)
        workers = [(self._ready_in(known), known) for known in self._crew.values()]
        workers = [(delay, known) for delay, known in workers if delay < inf]
        if not every.rows or not every.seconds or not spread.rows or not workers:
            return None
        cv2 = spread.cv2
        usual = every.even_rows(cv2) / every.seconds
        speeds = [(delay, _speed(known.pace, cv2, usual)) for delay, known in workers]
        flying = sum(known.seen.canvases for _, known in workers) or 1
        alone = sum(known.seen.alone for _, known in workers) / len(workers)
        rest = flying * spread.longest_rest(min(left, flying), alone)
        return _time_for(max(0, left - flying) + rest, speeds)

    def _ready_in(self, known: _Known) -> float:
        """Seconds until it works; inf for one that is so late that it may never do."""
        if known.seen.loaded:
            return 0.0
        usual = sum(self._load_s) / len(self._load_s) if self._load_s else 0.0
        age = self._at - known.since
        return max(0.0, usual - age) if age <= LATE * usual else inf


def _speed(pace: Pace, cv2: float, usual: float) -> float:
    """Rows per second of one worker: its own, as far as there are enough to tell it from the others."""
    prior = PRIOR_ROWS * max(1.0, pace.canvases)
    return (pace.even_rows(cv2) + prior) / (pace.seconds + prior / usual)


def _time_for(rows: float, speeds: list[tuple[float, float]]) -> float:
    """When workers that begin after these delays have done so many rows together."""
    speed = done = at = 0.0
    for delay, more in sorted(speeds):
        if speed and done + speed * (delay - at) >= rows:
            break
        done += speed * (delay - at)
        at, speed = delay, speed + more
    return at + (rows - done) / speed
