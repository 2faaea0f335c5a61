"""Every number of a report, out of the run's records, events and files, at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from dgbatch.runner.pages.distribution import Distribution, distribution, of_buckets
from dgbatch.runner.pages.row_counts import RowCounts, count_rows
from dgbatch.runner.pages.timeline import Life, Session, Throughput, lives, sessions, throughput
from dgbatch.runner.status import Status, status_of
from dgbatch.runner.sums import BOUNDS, Sums

if TYPE_CHECKING:
    from dgbatch.runner.commits import Commit
    from dgbatch.runner.ledger import Tally
    from dgbatch.runner.run_folder import Run

SLOWEST_SHARDS = 5
ALIVE = ("validating", "in_progress", "finalizing")


@dataclass(frozen=True, slots=True)
class Distributions:
    """Over the rows in data/; None where there are none."""

    prompt_tokens: Distribution | None
    tokens: Distribution | None
    steps_per_canvas: Distribution | None  # one value per canvas: the mean of its row
    tokens_per_forward: Distribution | None
    seconds: Distribution | None  # of a row in the engine
    seconds_from: str  # columns, records, or nothing: where they come from


@dataclass(frozen=True, slots=True)
class Cost:
    """What the workers' time comes to."""

    worker_hours: float
    gpu_hours: float
    gpus: float | None  # of each worker; None: one, where its device is a GPU
    price_per_gpu_hour: float | None
    from_events: bool  # else from the records, where no event tells of workers

    @property
    def price(self) -> float | None:
        return None if self.price_per_gpu_hour is None else self.gpu_hours * self.price_per_gpu_hour


@dataclass(frozen=True, slots=True)
class Figures:
    """A run at one moment."""

    status: Status
    at: datetime
    sessions: tuple[Session, ...]
    throughput: Throughput | None
    lives: tuple[Life, ...]
    counts: RowCounts
    distributions: Distributions
    revised_tokens: int | None  # self-corrections; None where neither columns nor records say
    slowest_shards: tuple[Commit, ...]  # by seconds a row
    cost: Cost
    events: tuple[Mapping[str, Any], ...]

    @property
    def work_s(self) -> float:
        """Seconds in which somebody worked on the run."""
        return sum(session.seconds for session in self.sessions)

    def per_s(self, amount: float) -> float | None:
        """Over the time in which rows were at work."""
        busy_s = self.throughput.busy_s if self.throughput else 0.0
        return amount / busy_s if busy_s > 0 else None

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints of it."""
        tally = self.status.tally
        return {
            **self.status.to_json(),
            "work_s": round(self.work_s, 3),
            "tokens_per_s": _rounded(self.per_s(tally.tokens)),
            "rows_per_s": _rounded(self.per_s(tally.rows)),
            "steps_per_canvas": _rounded(tally.steps_per_canvas),
            "passed": dict(self.counts.passed),
            "finish": dict(self.counts.finish),
            "quarantined": dict(self.counts.quarantined),
            "worker_hours": _rounded(self.cost.worker_hours, 6),
            "gpu_hours": _rounded(self.cost.gpu_hours, 6),
            "price": _rounded(self.cost.price, 6),
        }


def figures(run: Run, price_per_gpu_hour: float | None = None, now: datetime | None = None) -> Figures:
    """Read the run as it is now. Raises OutputError where its files or records are gone or damaged."""
    ledger, events = run.ledger(), run.events()
    status = status_of(run, now, ledger)
    at = now or datetime.now(timezone.utc)
    commits = ledger.counted
    found = sessions(events, commits, at.timestamp() if status.state in ALIVE else None)
    workers = lives(found, events, commits)
    counts = count_rows(run, ledger)
    return Figures(
        status=status,
        at=at,
        sessions=tuple(found),
        throughput=throughput(found, events, commits),
        lives=tuple(workers),
        counts=counts,
        distributions=_distributions(counts, ledger.tally.sums, run.spec.output.metrics),
        revised_tokens=_revised(counts, ledger.tally, run.spec.output.metrics),
        slowest_shards=tuple(sorted(commits, key=_per_row, reverse=True)[:SLOWEST_SHARDS]),
        cost=_cost(run, workers, price_per_gpu_hour),
        events=tuple(events),
    )


def _distributions(counts: RowCounts, sums: Sums, measured: bool) -> Distributions:
    took = sums.row_duration_s
    recorded = of_buckets(BOUNDS["row_duration_s"], took.counts, took.sum)
    return Distributions(
        prompt_tokens=distribution(counts.prompt_tokens),
        tokens=distribution(counts.tokens),
        steps_per_canvas=distribution(counts.steps_per_canvas),
        tokens_per_forward=distribution(counts.tokens_per_forward),
        seconds=distribution(counts.seconds) if measured else recorded,
        seconds_from="columns" if measured else "records" if recorded else "",
    )


def _revised(counts: RowCounts, tally: Tally, measured: bool) -> int | None:
    if measured:
        return counts.revised_tokens
    of_all_rows = tally.sums.row_duration_s.count == tally.ok  # records of older versions say nothing of theirs
    return tally.sums.revised_tokens if of_all_rows else None


def _per_row(commit: Commit) -> float:
    return commit.seconds / max(1, commit.ok + commit.quarantined)


def _cost(run: Run, workers: Iterable[Life], price: float | None) -> Cost:
    workers, asked = list(workers), run.spec.workers.gpus
    gpus = None if asked == "auto" else float(asked)

    def gpus_of(life: Life) -> float:
        return float(life.device not in ("", "cpu")) if gpus is None else gpus

    return Cost(
        worker_hours=sum(life.seconds for life in workers) / 3600,
        gpu_hours=sum(life.seconds * gpus_of(life) for life in workers) / 3600,
        gpus=gpus,
        price_per_gpu_hour=price,
        from_events=any(life.device or life.where for life in workers),
    )


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)
