"""When a run worked, how fast, and how long each worker was there: out of its events and commit records alone.

A run may have been submitted several times, with days in between. Its clock here is work: the seconds of its sessions,
one after the other, without the time in which nobody worked on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any

from dgbatch.runner.pages.distribution import parts, round_width

if TYPE_CHECKING:
    from dgbatch.runner.commits import Commit

BARS = 120  # of the plots over time, about
ENDS = ("completed", "failed", "cancelled")
GONE = ("worker_lost", "worker_left")

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Session:
    """One submit or retry, from its start to the last that is heard of it. Seconds since 1970."""

    start: float
    end: float
    ended: str  # completed, failed, cancelled; "" when it was cut off, or still works
    what: str  # submit or retry

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Throughput:
    """Rates over the run's work. Each commit's rows and tokens are spread evenly over the time it took."""

    width_s: float
    tokens_per_s: tuple[float, ...]  # one per bin of width_s
    rows_per_s: tuple[float, ...]
    restarts: tuple[tuple[float, float], ...]  # (at second of work, seconds of rest before it)
    losses: tuple[tuple[float, str], ...]  # (at second of work, worker)
    busy_s: float  # in which rows were at work: without starting, loading and the proof


@dataclass(frozen=True, slots=True)
class Life:
    """One worker process, from being ready to its end."""

    worker: str
    device: str
    where: str
    seconds: float  # loading included where its stats say how long it took
    stats: Event  # its worker_stats; empty where the run has none

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase."""
        return _phases(self.stats)


def seconds_of(at: str) -> float:
    """Since 1970, of a time as events and records have it."""
    return datetime.fromisoformat(at).timestamp()


def sessions(events: Sequence[Event], commits: Iterable[Commit], now: float | None = None) -> list[Session]:
    """Every time the run was worked on. now: of a run that is at work."""
    commits = list(commits)
    seen = [(seconds_of(event["at"]), event) for event in events]
    starts = sorted(at for at, event in seen if event.get("kind") == "started")
    ends = [seconds_of(commit.committed_at) for commit in commits]
    begun = min((end - commit.seconds for end, commit in zip(ends, commits, strict=True)), default=None)
    if begun is not None and (not starts or min(ends) < starts[0]):
        starts.insert(0, begun)  # made before runs told their events, or they are lost
    found = []
    for start, stop in pairwise([*starts, inf]):
        inside = [(at, event) for at, event in seen if start <= at < stop]
        last = max([start, *(at for at, _ in inside), *(end for end in ends if start <= end < stop)])
        kinds = [event.get("kind", "") for _, event in inside]
        ended = next((kind for kind in reversed(kinds) if kind in ENDS), "")
        if now is not None and stop == inf and not ended:
            last = max(last, now)
        found.append(Session(start, last, ended, "retry" if "retrying" in kinds else "submit"))
    return found


def throughput(found: Sequence[Session], events: Sequence[Event], commits: Iterable[Commit]) -> Throughput | None:
    """Tokens and rows per second of work; None while nothing is committed or no time has passed."""
    total = sum(session.seconds for session in found)
    commits = list(commits)
    if not commits or total <= 0:
        return None
    width = round_width(total / BARS)
    tokens, rows = [0.0] * parts(total, width), [0.0] * parts(total, width)
    for commit in commits:
        end = seconds_of(commit.committed_at)
        first, last = _work_at(found, end - commit.seconds), _work_at(found, end)
        made = commit.ok + (0 if commit.round else commit.quarantined)
        for index, share in _spread(first, last, width, len(tokens)):
            tokens[index] += commit.tokens * share
            rows[index] += made * share
    lengths = [width] * (len(tokens) - 1) + [total - width * (len(tokens) - 1)]
    return Throughput(
        width_s=width,
        tokens_per_s=tuple(made / length for made, length in zip(tokens, lengths, strict=True)),
        rows_per_s=tuple(made / length for made, length in zip(rows, lengths, strict=True)),
        restarts=tuple(
            (_work_at(found, session.start), session.start - before.end) for before, session in pairwise(found)
        ),
        losses=tuple(
            (_work_at(found, seconds_of(event["at"])), str(event.get("worker", "")))
            for event in events
            if event.get("kind") == "worker_lost"
        ),
        busy_s=covered((seconds_of(commit.committed_at), commit.seconds) for commit in commits),
    )


def lives(found: Sequence[Session], events: Sequence[Event], commits: Iterable[Commit]) -> list[Life]:
    """Every worker process. Where no event tells of workers: the time in which each had work, from the records."""
    made: list[Life] = []
    ready: dict[str, tuple[float, Event]] = {}
    last_seen = 0.0

    def end(worker: str, at: float, stats: Event) -> None:
        since, event = ready.pop(worker)
        seconds = max(0.0, at - since) + _phases(stats).get("load", 0.0)
        made.append(Life(worker, str(event.get("device", "")), str(event.get("where", "")), seconds, stats))

    for event in events:
        kind, worker, at = event.get("kind", ""), str(event.get("worker", "")), seconds_of(event["at"])
        stats = event if kind == "worker_stats" else {}
        if kind == "started":
            for name, (since, _) in list(ready.items()):
                end(name, _session_of(found, since).end, {})
        elif kind in (*GONE, "worker_stats", "worker_ready") and worker in ready:
            end(worker, last_seen if kind == "worker_ready" else at, stats)
        elif stats:  # told after its end
            _tell(made, worker, stats)
        if kind == "worker_ready":
            ready[worker] = (at, event)
        last_seen = at
    for name in list(ready):
        end(name, found[-1].end if found else last_seen, {})
    return made or [Life(worker, "", "", seconds, {}) for worker, seconds in sorted(_at_work(commits).items())]


def _phases(stats: Event) -> dict[str, float]:
    return {str(name): float(took) for name, took in dict(stats.get("seconds") or {}).items()}


def _tell(made: list[Life], worker: str, stats: Event) -> None:
    """Give stats to the last life of a worker that has none."""
    for index in reversed(range(len(made))):
        life = made[index]
        if life.worker == worker and not life.stats:
            made[index] = replace(life, stats=stats, seconds=life.seconds + _phases(stats).get("load", 0.0))
            return


def _at_work(commits: Iterable[Commit]) -> dict[str, float]:
    """By worker: seconds in which it had a piece. A worker has two at a time, so their times overlap."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for commit in commits:
        end = seconds_of(commit.committed_at)
        spans.setdefault(commit.worker, []).append((end, commit.seconds))
    seconds = {}
    for worker, pieces in spans.items():
        seconds[worker] = covered(pieces)
    return seconds


def covered(pieces: Iterable[tuple[float, float]]) -> float:
    """Seconds in which at least one of these (end, seconds) was at work."""
    total, until = 0.0, -inf
    for begin, end in sorted((end - seconds, end) for end, seconds in pieces):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def _session_of(found: Sequence[Session], at: float) -> Session:
    return next((session for session in reversed(found) if session.start <= at), found[0])


def _work_at(found: Sequence[Session], at: float) -> float:
    """The second of work at this time: of a time at rest, that of the last end before it."""
    return sum(min(max(at - session.start, 0.0), session.seconds) for session in found)


def _spread(first: float, last: float, width: float, bins: int) -> Iterable[tuple[int, float]]:
    """(bin, share) of something done evenly between two seconds; the shares add up to 1."""
    left, right = min(int(first / width), bins - 1), min(int(last / width), bins - 1)
    if left == right or last <= first:
        yield right, 1.0
        return
    for index in range(left, right + 1):
        begin, end = max(first, index * width), last if index == right else (index + 1) * width
        yield index, (end - begin) / (last - first)
