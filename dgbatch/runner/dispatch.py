"""Which shard goes to which worker, and what happens to it when that goes wrong. Knows no Ray, no clock, no disk.

| event | call | effect |
| --- | --- | --- |
| a worker has room | `next_for` | it gets the next shards, until they cover the rows it asked for |
| a shard is committed | `finished` | it leaves |
| a shard failed in a worker | `failed` | it goes to the back of the queue, one attempt older |
| a worker died | `lost` | the same for every shard it held |

A shard that was there when something went wrong is tried alone from then on: when its worker dies again, it is known
whose fault it was. Only such attempts count against `shard_attempts`; a shard that has used them up is set aside, and
the rest of the job goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dgbatch.runner.plan import Shard


class Dispatch:
    """Owns the state of every shard that is not committed yet."""

    def __init__(self, shards: Iterable[Shard], shard_attempts: int = 3):
        self.shard_attempts = shard_attempts
        self.pending: deque[Shard] = deque(shards)
        self.running: dict[str, dict[int, Shard]] = {}  # worker -> the shards it holds
        self.attempts: dict[int, int] = {}  # shard -> attempts that came to nothing
        self.faults: dict[int, int] = {}  # shard -> those of them that no other shard can be blamed for
        self.given_up: dict[int, Shard] = {}

    @property
    def done(self) -> bool:
        """Nothing waits and nobody works."""
        return not self.pending and not self.busy

    @property
    def busy(self) -> bool:
        """Some worker holds a shard."""
        return any(self.running.values())

    def held(self, worker: str) -> list[Shard]:
        return list(self.running.get(worker, {}).values())

    def next_for(self, worker: str, rows: int) -> list[tuple[Shard, int]]:
        """Shards that cover at least `rows` more rows for this worker, each with the number of its attempt, from 1."""
        held = self.running.setdefault(worker, {})
        given: list[tuple[Shard, int]] = []
        if any(index in self.attempts for index in held):
            return given
        while rows > 0 and self.pending:
            before = self.attempts.get(self.pending[0].index, 0)
            if before and held:
                break  # every shard behind it has been tried before, too: they queue at the back
            shard = self.pending.popleft()
            held[shard.index] = shard
            given.append((shard, before + 1))
            rows = 0 if before else rows - shard.selected
        return given

    def finished(self, worker: str, index: int) -> None:
        self.running[worker].pop(index, None)

    def failed(self, worker: str, index: int) -> bool:
        """Put one shard of this worker back, at fault itself; False when it has used up its attempts."""
        self.faults[index] = self.faults.get(index, 0) + 1
        shard = self._take(worker, index)
        if self.faults[index] >= self.shard_attempts:
            self.given_up[index] = shard
            return False
        self.pending.append(shard)
        return True

    def lost(self, worker: str) -> None:
        """Put back all that a dead worker held. One shard alone is at fault; of several, nobody knows which."""
        held = self.held(worker)
        if len(held) == 1:
            self.failed(worker, held[0].index)
        else:
            self.pending.extend(self._take(worker, shard.index) for shard in held)
        self.running.pop(worker, None)

    def _take(self, worker: str, index: int) -> Shard:
        self.attempts[index] = self.attempts.get(index, 0) + 1
        return self.running[worker].pop(index)
