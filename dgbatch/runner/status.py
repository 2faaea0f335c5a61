"""Where a run stands, read from its folder alone: by the driver, and by anybody else while it works."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from dgbatch.errors import OutputError
from dgbatch.runner.layout import OURS, RUN
from dgbatch.runner.ledger import Ledger, Tally
from dgbatch.runner.progress import AT_WORK, State
from dgbatch.runner.run_folder import Run
from dgbatch.runner.storage.folder import open_folder
from dgbatch.runner.storage.lock import owner
from dgbatch.runner.terminal.live_file import LiveReader

if TYPE_CHECKING:
    from dgbatch.runner.commits import Commit

RECENT_S = 60.0  # of work behind the rate of a run in progress
# What the driver writes to events.jsonl, and the state of the run after it.
STATES: dict[str, State] = {
    "started": "in_progress",
    "finalizing": "finalizing",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "repaired": "failed",  # complete it is not any more; its reason says what to do
}


@dataclass(frozen=True, slots=True)
class Status:
    """One run at one moment; counts are those of committed shards."""

    path: str
    name: str
    state: State
    expected: int
    shards: int
    tally: Tally
    judged: bool  # the job has accept rules
    tokens_per_s: float | None
    eta_s: float | None
    workers: int
    reason: str = ""  # why it failed or was cancelled
    rows_per_s: float | None = None
    elapsed_s: float = 0.0  # since the last submit, while it works

    @property
    def exit_code(self) -> int:
        """Of the submit that ends in this state."""
        return {"completed": 3 if self.tally.quarantined else 0, "cancelled": 130}.get(self.state, 4)

    def to_json(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "rows": {"expected": self.expected, "ok": self.tally.ok, "quarantined": self.tally.quarantined},
            "accepted": self.tally.accepted if self.judged else None,
            "tokens": self.tally.tokens,
            "tokens_per_s": None if self.tokens_per_s is None else round(self.tokens_per_s, 1),
            "eta_s": None if self.eta_s is None else round(self.eta_s, 1),
            "workers": self.workers,
        }


def status_of(run: Run, now: datetime | None = None, ledger: Ledger | None = None) -> Status:
    """The run's state, counts and speed. A run that says it is at work while nobody holds its lock has failed.

    ledger: where the caller has read the records already.
    """
    ledger = run.ledger() if ledger is None else ledger
    commits, tally = ledger.counted, ledger.tally
    state, reason, workers, since = _told(run.events())
    if run.succeeded:
        state = "completed"
    elif state not in ("cancelled", "failed") and owner(run.path) is None:
        state, reason = "failed", "the driver is gone; submit again to resume"
    alive = state in AT_WORK
    now = (now or datetime.now(timezone.utc)) if alive else None
    tokens_per_s, rows_per_s = _speed(commits, since, now)
    left = run.plan.expected - tally.rows
    eta_s = left / rows_per_s if alive and rows_per_s and left else None  # a retry has none left by this count
    if alive and (live := LiveReader(run.folder).read()) is not None:  # the driver knows what is in work, too
        tokens_per_s, workers = live.tokens_per_s or tokens_per_s, live.workers
        eta_s = eta_s if live.eta_s is None else live.eta_s
    return Status(
        path=run.path,
        name=run.spec.name,
        state=state,
        expected=run.plan.expected,
        shards=len(run.plan.shards),
        tally=tally,
        judged=run.spec.accept is not None,
        tokens_per_s=tokens_per_s,
        eta_s=eta_s,
        workers=workers if alive else 0,
        reason=reason,
        rows_per_s=rows_per_s,
        elapsed_s=(now - datetime.fromisoformat(since)).total_seconds() if now and since else 0.0,
    )


def find_runs(folder: str | os.PathLike[str]) -> Iterator[Run]:
    """Every run below a folder, itself included, in the order of their names."""
    here = open_folder(folder)
    try:
        entries = here.entries()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be read: {error.strerror}. Name another folder.") from error
    if f"{OURS}/" in entries and here.exists(RUN):
        yield Run.open(here.path)  # a run holds no other run
        return
    for name in entries:
        if name.endswith("/") and not name.startswith("."):
            yield from find_runs(str(here.at(name.rstrip("/"))))


def _told(events: Iterable[dict[str, Any]]) -> tuple[State, str, int, str]:
    """State, reason, workers at work and the time of the last start, as the events tell them."""
    state: State = "validating"
    reason = since = ""
    workers: set[str] = set()
    for event in events:
        kind = event.get("kind", "")
        if kind in STATES:
            state, reason = STATES[kind], str(event.get("reason", ""))
        if kind == "started":
            since = event["at"]
            workers.clear()
        elif kind == "worker_ready":
            workers.add(event["worker"])
        elif kind == "worker_lost":
            workers.discard(event["worker"])
    return state, reason, len(workers), since


def _speed(commits: list[Commit], since: str, now: datetime | None) -> tuple[float | None, float | None]:
    """Tokens and rows per second of the last submit: over its last minute while it works, else over all of it."""
    start = datetime.fromisoformat(since).timestamp() if since else 0.0
    work = [(datetime.fromisoformat(commit.committed_at).timestamp(), commit) for commit in commits]
    work = [(end, commit) for end, commit in work if end >= start] or work
    if now is not None:
        work = [(end, commit) for end, commit in work if end >= now.timestamp() - RECENT_S]
    if not work:
        return None, None
    last = now.timestamp() if now is not None else max(end for end, _ in work)
    seconds = max(last - min(end - commit.seconds for end, commit in work), 1e-3)
    tokens = sum(commit.tokens for _, commit in work)
    return tokens / seconds, sum(commit.ok + commit.quarantined for _, commit in work) / seconds
