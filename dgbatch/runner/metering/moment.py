"""What the metrics of a job are made of at one moment: plain frozen data, so that a scrape may come at any time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from dgbatch.records import EngineStats
from dgbatch.runner.ledger import Tally
from dgbatch.runner.progress import State
from dgbatch.runner.progress import WorkerState as WorkerState
from dgbatch.runner.sums import Histogram


@dataclass(frozen=True, slots=True)
class WorkerMoment:
    """One worker, as its last heartbeat told it."""

    name: str
    state: WorkerState
    stats: EngineStats = field(default_factory=EngineStats)
    canvases: int = 0  # in flight
    occupancy: float | None = None  # tiles in a pass over canvases in flight, lately; None while it is not known
    roofline: float | None = None  # achieved share of what its device could do, lately; None where that is not known


@dataclass(frozen=True, slots=True)
class Moment:
    """One job in the hands of one driver."""

    job: str
    run: str  # its folder or URI, as the job file writes it
    model: str
    checksum: str
    versions: Mapping[str, str]  # by package
    started_at: float  # of the run, by its first submit: seconds since 1970, as the times below
    expected: int  # rows times samples
    shards: Mapping[str, int]  # by state
    tally: Tally = field(default_factory=Tally)
    commits: int = 0  # records that count
    codes: tuple[str, ...] = ()  # of errors that rows were in quarantine for, also those that none is for any more
    judged: bool = False  # the job has accept rules
    last_commit_at: float | None = None
    deadline_at: float | None = None
    state: State = "validating"
    commit_duration: Histogram = field(default_factory=Histogram)
    retries: Mapping[str, int] = field(default_factory=dict)  # by reason, since this driver began
    restarts: Mapping[str, int] = field(default_factory=dict)  # by reason
    eta_s: float | None = None
    still_since: float | None = None  # by the monotonic clock: when the open piece that waits longest moved last
    free_path: str | None = None  # where the output's disk is; None: the output is in a store
    workers: tuple[WorkerMoment, ...] = ()

    @property
    def queue_age_s(self) -> float:
        """As of now, not of then: it grows while the driver stands still, too."""
        return 0.0 if self.still_since is None else max(0.0, time.monotonic() - self.still_since)
