"""Which shard goes to which worker, and what happens to it when that goes wrong. Knows no Ray, no clock, no disk.

| event | call | effect |
| --- | --- | --- |
| a worker has room | `next_for` | it gets the next shards, until they cover the rows it asked for |
| a shard is committed | `finished` | it leaves |
| a shard failed in a worker | `failed` | it goes to the back of the queue, one attempt older |
| a worker died | `lost` | the same for every shard it held |
| a probe came through | `probed` | its shard goes back, with fewer suspects |

A shard that was there when something went wrong is tried alone from then on: when its worker dies again, it is known
whose fault it was. Only such attempts count against `shard_attempts`. A shard that has used them up is set aside when
it failed with an error; when it killed its workers, poison.py looks for the rows that do, and they alone are lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dgbatch.runner.poison import Fate, Search

if TYPE_CHECKING:
    from dgbatch.runner.again import Again
    from dgbatch.runner.plan import Shard


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is asked to do with a shard."""

    shard: Shard
    attempt: int = 1
    poison: Mapping[int, str] = field(default_factory=dict)  # rows to quarantine unseen, and why
    probe: range | None = None  # run these rows alone, and keep nothing of them
    again: Again | None = None  # run only rows that are in quarantine; rows then count among these


@dataclass(slots=True)
class Tries:
    """What came of a shard that something happened to."""

    search: Search
    attempts: int = 0  # that came to nothing; probes are none
    faults: int = 0  # those of them that no other shard can be blamed for


class Dispatch:
    """Owns the state of every shard that is not committed yet."""

    def __init__(self, shards: Iterable[Shard], shard_attempts: int = 3, tries: Mapping[int, Tries] | None = None):
        self.shard_attempts = shard_attempts
        self.tries = dict(tries or {})  # shard -> what went wrong; none for a shard that nothing happened to
        self.pending = deque(sorted(shards, key=lambda shard: shard.index in self.tries))
        self.running: dict[str, dict[int, Shard]] = {}  # worker -> the shards it holds
        self.given_up: dict[int, Shard] = {}

    @property
    def done(self) -> bool:
        """Nothing waits and nobody works."""
        return not self.pending and not self.busy

    @property
    def busy(self) -> bool:
        """Some worker holds a shard."""
        return any(self.running.values())

    @property
    def poison_rows(self) -> int:
        """Found in shards that are not committed yet."""
        return sum(len(tries.search.poison) for tries in self.tries.values())

    def held(self, worker: str) -> list[Shard]:
        return list(self.running.get(worker, {}).values())

    def next_for(self, worker: str, rows: int) -> list[Task]:
        """Shards that cover at least `rows` more rows for this worker."""
        held = self.running.setdefault(worker, {})
        given: list[Task] = []
        if any(index in self.tries for index in held):
            return given
        while rows > 0 and self.pending:
            tries = self.tries.get(self.pending[0].index)
            if tries and held:
                break  # every shard behind it has been tried before, too: they queue at the back
            shard = self.pending.popleft()
            held[shard.index] = shard
            if tries:
                search = tries.search
                return [Task(shard, tries.attempts + 1, dict(search.poison), search.probe)]
            given.append(Task(shard))
            rows -= shard.selected
        return given

    def finished(self, worker: str, index: int) -> None:
        self.running[worker].pop(index, None)
        self.tries.pop(index, None)

    def probed(self, worker: str, index: int) -> None:
        """The rows of a probe came through."""
        self.tries[index].search.survived()
        self.pending.append(self.running[worker].pop(index))

    def failed(self, worker: str, index: int) -> bool:
        """Put one shard of this worker back, at fault itself; False when it has used up its attempts."""
        shard, tries = self._take(worker, index)
        tries.faults += 1
        return self._put_back(shard, "again" if tries.faults < self.shard_attempts else "given_up")

    def lost(self, worker: str, reason: str = "") -> Fate:
        """Put back all that a dead worker held. One shard alone is at fault; of several, nobody knows which."""
        held = [self._take(worker, shard.index) for shard in self.held(worker)]
        fate: Fate = "again"
        if len(held) == 1:
            fate = self._blame(held[0][1], reason)
        for shard, _ in held:
            self._put_back(shard, fate)
        self.running.pop(worker, None)
        return fate

    def acquit(self) -> None:
        """Forget what the searches found that are on: workers die whatever they run."""
        for tries in self.tries.values():
            if tries.search.on:
                tries.search = Search(tries.search.rows)

    def _blame(self, tries: Tries, reason: str) -> Fate:
        if tries.search.on:
            return tries.search.died(reason)
        tries.faults += 1
        if tries.faults < self.shard_attempts:
            return "again"
        tries.search.start()
        tries.faults = 0  # of the search's own
        return "searching"

    def _take(self, worker: str, index: int) -> tuple[Shard, Tries]:
        shard = self.running[worker].pop(index)
        tries = self.tries.setdefault(index, Tries(Search(shard.selected)))
        tries.attempts += tries.search.probe is None
        return shard, tries

    def _put_back(self, shard: Shard, fate: Fate) -> bool:
        if fate != "given_up":
            self.pending.append(shard)
            return True
        self.given_up[shard.index] = shard
        tries = self.tries[shard.index]
        tries.search.stop()
        tries.faults = 0  # whoever submits again has mended something
        return False
