"""A shard in the hands of its worker: which of its rows are in the engine, and which came back."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dgbatch.runner.sink import OutputRow, QuarantinedRow

if TYPE_CHECKING:
    from dgbatch.runner.dispatch import Task
    from dgbatch.runner.report import Failure


@dataclass(slots=True, eq=False)
class OpenShard:
    """A shard in work. Positions count its rows times samples, in the order of the input.

    The engine's thread alone changes it.
    """

    task: Task
    left: int  # samples not handed to the engine yet
    started_at: float = field(default_factory=time.monotonic)
    read: bool = False  # all its rows are with the engine, or back
    failure: Failure | None = None
    waiting: dict[tuple[str, int], tuple[int, dict[str, Any]]] = field(default_factory=dict)
    tried: dict[tuple[str, int], int] = field(default_factory=dict)  # attempts of earlier rounds, in one of retry
    rows: list[tuple[int, OutputRow]] = field(default_factory=list)
    quarantined: list[tuple[int, QuarantinedRow]] = field(default_factory=list)

    @property
    def index(self) -> int:
        return self.task.shard.index

    def attempts(self, row_id: str, sample: int) -> int:
        """How often a sample was tried, this time included."""
        return self.task.attempt + self.tried.get((row_id, sample), 0)

    @property
    def finished(self) -> bool:
        return (self.read or self.failure is not None) and not self.waiting
