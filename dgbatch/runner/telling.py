"""What people see of a job at work: how far, how fast, and a note about what has just happened."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from dgbatch.runner.forecast import Forecast, Seen
from dgbatch.runner.progress import OnProgress, Problem, Progress, WorkerState, WorkerView
from dgbatch.runner.rates import Rates, RecentSteps
from dgbatch.runner.spread import Counts, Spread

if TYPE_CHECKING:
    from dgbatch.runner.actors import Actor
    from dgbatch.runner.ledger import Tally
    from dgbatch.runner.report import Report

TELL_S = 0.25  # between two updates of the display
RESTS = 20  # times as long as looking took: there may be a thousand workers
MOST_S = 5.0  # far less than the watchdog waits for
NOTE_S = 5.0  # what a note stays on it at least, while the work goes on
PROBLEMS = 5  # that are remembered


class Telling:
    """Makes a Progress of what the workers report, now and then."""

    def __init__(self, name: str, path: str, expected: int, shards: int, on_progress: OnProgress):
        self.name, self.path, self.expected, self.shards, self.on_progress = name, path, expected, shards, on_progress
        self.note = ""
        self._noted_at = self._told_at = 0.0
        self._rest_s = TELL_S
        self._started_at = time.monotonic()
        self._working_at: float | None = None  # since when there was a worker with its model
        self._problems: deque[Problem] = deque(maxlen=PROBLEMS)
        self._rates = Rates()
        self._rates_of: dict[str, Rates] = {}  # by worker
        self._recent_steps = RecentSteps()
        self._forecast = Forecast()
        self._lost = _Sums()

    def say(self, note: str) -> None:
        """What is going on when it is not plain work; the next `tell` shows it at once."""
        self.note, self._noted_at, self._told_at = note, time.monotonic(), 0.0

    def went_wrong(self, text: str) -> None:
        """Like `say`, and people can read it for longer."""
        self.say(text)
        self._problems.append(Problem(datetime.now(timezone.utc).isoformat(timespec="seconds"), text))

    def quiet(self, at_once: bool = False) -> None:
        """The work goes on: the last note goes when people have had the time to read it."""
        if at_once or time.monotonic() - self._noted_at > NOTE_S:
            self.note = ""

    def lost(self, actor: Actor) -> None:
        """A worker is gone; what it did still counts, for rates must not fall when one dies."""
        self._lost.add(actor.report)
        self._rates_of.pop(actor.name, None)

    def tell(self, tally: Tally, crew: Collection[Actor]) -> None:
        """Show what is committed and what these workers have in work, unless that was done a moment ago."""
        now = time.monotonic()
        if now - self._told_at < self._rest_s:
            return
        self._told_at = now
        every = _Sums()
        every.add_sums(self._lost)
        for actor in crew:
            every.add(actor.report)
        rows = tally.rows + sum(actor.report.open_rows for actor in crew)
        if any(actor.report.loaded for actor in crew):
            self._working_at = self._working_at or now
            self._rates.add(now, rows, every.tokens)
        self._recent_steps.add(now, every.canvases, every.steps)
        self._forecast.saw(now, [_seen(actor) for actor in crew])
        worked_s = now - self._working_at if self._working_at else 0.0
        progress = Progress(
            state="in_progress",
            name=self.name,
            path=self.path,
            expected=self.expected,
            rows=rows,
            quarantined=tally.quarantined,
            ok=tally.ok,
            tokens=tally.tokens,
            shards=self.shards,
            shards_done=tally.shards,
            tokens_per_s=self._rates.tokens_per_s,
            rows_per_s=self._rates.rows_per_s,
            mean_tokens_per_s=every.tokens / worked_s if every.tokens and worked_s else None,
            eta_s=self._forecast.eta_s(self.expected - rows, every.lengths),
            steps_per_canvas=_ratio(every.steps, every.canvases) or _ratio(tally.denoise_steps, tally.canvases),
            recent_steps=tuple(self._recent_steps.points),
            seconds=dict(every.seconds),
            crew=tuple(self._view(now, actor) for actor in sorted(crew, key=_number)),
            problems=tuple(self._problems),
            elapsed_s=now - self._started_at,
            note=self.note,
        )
        self._rest_s = min(MOST_S, max(TELL_S, RESTS * (time.monotonic() - now)))
        self.on_progress(progress)

    def _view(self, now: float, actor: Actor) -> WorkerView:
        report = actor.report
        rates = self._rates_of.setdefault(actor.name, Rates())
        rows = _rows(report)
        if report.loaded:
            rates.add(now, rows, report.stats.tokens)
        return WorkerView(
            name=actor.name,
            state=_state(actor),
            device=report.device,
            canvases=report.canvases,
            rows=rows,
            tokens_per_s=rates.tokens_per_s,
            since_step_s=now - actor.moved_at,
            seconds=report.stats.seconds,
        )


class _Sums:
    """Over workers' reports."""

    def __init__(self) -> None:
        self.tokens = self.canvases = self.steps = 0
        self.seconds: dict[str, float] = {}
        self.lengths = Spread()

    def add(self, report: Report) -> None:
        stats = report.stats
        self._add(stats.tokens, stats.canvases, stats.denoise_steps, stats.seconds, report.lengths)

    def add_sums(self, other: _Sums) -> None:
        self._add(other.tokens, other.canvases, other.steps, other.seconds, other.lengths.counts)

    def _add(self, tokens: int, canvases: int, steps: int, seconds: Mapping[str, float], lengths: Counts) -> None:
        self.tokens += tokens
        self.canvases += canvases
        self.steps += steps
        for phase, spent in seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + spent
        self.lengths.add_counts(lengths)


def _rows(report: Report) -> int:
    return sum(rows for _, rows in report.lengths)


def _number(actor: Actor) -> tuple[int, str]:
    """w2 before w10, and a worker that was started anew in its old place."""
    return len(actor.name), actor.name


def _state(actor: Actor) -> WorkerState:
    if not actor.report.loaded:
        return "starting"
    if actor.leaving:
        return "leaving"
    return "idle" if actor.report.idle and not actor.report.unstarted else "working"  # pieces that it holds are there


def _seen(actor: Actor) -> Seen:
    report = actor.report
    step_s = {point.canvases: point.seconds for point in report.curve}
    alone = step_s[1] / step_s[report.canvases] if {1, report.canvases} <= step_s.keys() else 1.0
    return Seen(actor.name, _rows(report), report.canvases, report.loaded, report.idle, min(1.0, alone))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
