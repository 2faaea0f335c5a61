"""A piece in the hands of its worker: which of its rows are in the engine, and which came back."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dgbatch.errors import RowError
from dgbatch.runner.piece import Place, Task
from dgbatch.runner.poison import Blame
from dgbatch.runner.report import Failure
from dgbatch.runner.sink import OutputRow, QuarantinedRow

RowKey = tuple[str, int]  # row id, sample
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class OpenPiece:
    """A piece in work. Rows are positions among the shard's selected rows, and `position` counts their samples too.

    The engine's thread alone changes it, but for the bounds: `next` and `stop`.
    """

    task: Task
    samples: int  # of each row
    next: int = field(init=False)  # the first row that the engine was not given
    stop: int = field(init=False)  # of the rows it will be given
    started_at: float = field(default_factory=time.monotonic)
    read: bool = False  # all its rows are with the engine, or back
    failure: Failure | None = None
    waiting: dict[RowKey, tuple[int, dict[str, Any]]] = field(default_factory=dict)  # position, row
    tried: dict[RowKey, int] = field(default_factory=dict)  # attempts of earlier rounds, in one of retry
    rows: list[tuple[int, OutputRow]] = field(default_factory=list)
    quarantined: list[tuple[int, QuarantinedRow]] = field(default_factory=list)
    kept: int = 0  # of those, what a round of retry leaves as it is

    def __post_init__(self) -> None:
        piece, probe = self.task.piece, self.task.probe
        self.next, self.stop = (piece.first, piece.stop) if probe is None else (probe.start, probe.stop)

    @property
    def place(self) -> Place:
        return self.task.piece.place

    @property
    def span(self) -> tuple[int, int] | None:
        """The rows it came to, for its commit; None: all of its shard's, or a round of retry."""
        rows = (self.task.piece.first, self.stop)
        return None if self.task.again or rows == (0, self.task.piece.shard.selected) else rows

    def attempts(self, row_id: str, sample: int) -> int:
        """How often a sample was tried, this time included."""
        return self.task.attempt + self.tried.get((row_id, sample), 0)

    @property
    def unstarted(self) -> int:
        """Rows."""
        return self.stop - self.next

    @property
    def empty(self) -> bool:
        """It will come to nothing: a probe, or told to stop before its first row."""
        return self.task.probe is not None or self.stop == self.task.piece.first

    @property
    def done(self) -> int:
        """Samples of its rows that are back."""
        return len(self.rows) + len(self.quarantined) - self.kept

    @property
    def finished(self) -> bool:
        return (self.read or self.failure is not None) and not self.waiting

    def cut(self) -> int | None:
        """Keep half of the rows that are not begun, leave the others; the first of those, or None: there are none."""
        if self.unstarted < 2 or self.task.probe is not None or self.task.again:
            return None
        self.stop -= self.unstarted // 2
        return self.stop

    def close(self) -> None:
        """Begin no more rows; a round of retry is done whole or not at all."""
        if self.task.again is None:
            self.stop = min(self.next, self.stop)

    def give_up(self) -> None:
        """Keep the rows before the first one that is not back; more of the others may come back later."""
        done = {position for position, _ in (*self.rows, *self.quarantined)}
        position = self.task.piece.first * self.samples
        while self.task.again is None and position in done:
            position += 1
        self.stop = position // self.samples

    def results(self) -> tuple[list[OutputRow], list[QuarantinedRow]]:
        """What its rows came to, in the order of the input."""
        end = math.inf if self.task.again else self.stop * self.samples
        return _in_order(self.rows, end), _in_order(self.quarantined, end)


def _in_order(results: list[tuple[int, Result]], end: float) -> list[Result]:
    return [row for position, row in sorted(results, key=lambda pair: pair[0]) if position < end]


def poisoned(blame: Blame) -> RowError:
    """What a row is quarantined with that its worker was lost to."""
    if blame.code == "out_of_memory":
        return RowError("out_of_memory", f"alone on its device, it ran out of memory: {blame.reason}")
    return RowError("worker_killed", f"run alone, it cost its worker: {blame.reason}")
