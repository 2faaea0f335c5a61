"""What is given to a worker: a shard or, where idle workers took over a part of it, a run of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dgbatch.runner.again import Again
    from dgbatch.runner.plan import Shard
    from dgbatch.runner.poison import Blame

Place = tuple[int, int]  # shard, first row: what a worker and the driver call a piece, also after it was cut
Key = tuple[int, int, int]  # shard, first row, stop


@dataclass(frozen=True, slots=True)
class Piece:
    """Selected rows [first, stop) of a shard: the unit of work, retry and commit. Mostly the whole shard."""

    shard: Shard
    first: int
    stop: int

    @classmethod
    def whole(cls, shard: Shard) -> Piece:
        return cls(shard, 0, shard.selected)

    @property
    def place(self) -> Place:
        return self.shard.index, self.first

    @property
    def key(self) -> Key:
        return self.shard.index, self.first, self.stop

    @property
    def rows(self) -> int:
        return self.stop - self.first

    @property
    def span(self) -> tuple[int, int] | None:
        """For its commit record; None for a whole shard."""
        return None if self.rows == self.shard.selected else (self.first, self.stop)

    def cut(self, at: int) -> tuple[Piece, Piece]:
        """The rows before this one, and the others."""
        assert self.first < at < self.stop
        return Piece(self.shard, self.first, at), Piece(self.shard, at, self.stop)

    def __str__(self) -> str:
        shard = f"shard {self.shard.index}"
        return shard if self.span is None else f"rows {self.first} to {self.stop - 1} of {shard}"


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is asked to do with a piece."""

    piece: Piece
    attempt: int = 1
    poison: Mapping[int, Blame] = field(default_factory=dict)  # rows to quarantine unseen, and why
    probe: range | None = None  # run these rows alone, and keep nothing of them
    again: Again | None = None  # run only rows that are in quarantine; rows then count among these
