"""Which rows of a piece kill the worker that runs them. Knows no Ray, no clock, no disk.

Of the suspects, rows [low, high), at least one kills. A probe runs their first half and nothing else: when it dies, the
half holds a poison row; when it comes through, the other half does. So the first poison row is found first, with fewer
deaths than probes. No row is condemned whose worker has not died twice with nothing else to do: once may have been a
node that was taken away. Then the whole piece is tried without it, and when that dies too, the search goes on behind
the row. A row that alone, with one canvas in flight, takes more memory than the device has is found in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

MOST_POISON = 8  # rows of one piece; with more of them it is hardly the rows' fault

Code = Literal["worker_killed", "out_of_memory"]
Fate = Literal["again", "searching", "poisoned", "given_up"]


@dataclass(frozen=True, slots=True)
class Blame:
    """Why a worker died, in the words of the quarantine."""

    code: Code
    reason: str


@dataclass(slots=True)
class Search:
    """The suspects of one piece, and who was found out. Rows are positions among its shard's selected rows."""

    first: int
    stop: int
    poison: dict[int, Blame] = field(default_factory=dict)
    on: bool = False
    low: int = 0  # suspects, while it is on
    high: int = 0
    left: int = MOST_POISON  # poison rows it may still find
    struck: bool = False  # the row that is alone has died once
    last_try: bool = False  # no part of the piece kills: once more whole

    @property
    def probe(self) -> range | None:
        """The rows to try alone; None: all of the piece but its poison."""
        if not self.on or self.low == self.high:
            return None
        return range(self.low, self.low + max(1, (self.high - self.low) // 2))

    def start(self) -> None:
        """All rows are suspects: the whole piece has used up its attempts."""
        self.on, self.low, self.high, self.left = True, self.first, self.stop, MOST_POISON
        self.struck = self.last_try = False

    def end(self) -> None:
        """Forget the search, keep what it found."""
        self.on, self.low, self.high = False, 0, 0

    def died(self, blame: Blame) -> Fate:
        """The worker died that ran the probe or, where there was none, the piece without its poison."""
        part = self.probe
        if part is None:
            return self._died_whole()
        if len(part) > 1:
            self.high = part.stop
            return "again"
        self.struck = not self.struck
        if self.struck:
            return "again"
        self.poison[self.low] = blame
        self.left -= 1
        self.low = self.high = part.stop
        return "poisoned"

    def survived(self) -> None:
        """The probe came through: the first poison row lies behind it, if there is one at all."""
        assert self.probe is not None
        self.low, self.struck = self.probe.stop, False
        self.last_try = self.low == self.high

    def _died_whole(self) -> Fate:
        if self.last_try:
            return "given_up"
        if self.low == self.stop or not self.left:
            self.last_try = True
            return "again"
        self.high = self.stop
        return "searching"
