"""Which piece goes to which worker, and what happens to it when that goes wrong. Knows no Ray, no clock, no disk.

| event | call | effect |
| --- | --- | --- |
| a worker has room | `next_for` | it gets the next pieces, until they cover the rows it asked for |
| a piece is committed | `finished` | it leaves; rows that its worker left out go to the front of the queue |
| a piece failed in a worker | `failed` | it goes to the back of the queue, one attempt older |
| a worker died | `lost` | the same for every piece it held |
| a device was short of memory | `short` | the same, and nobody is at fault |
| a worker was told to leave | `left` | what it held goes to the front of the queue, as if it had never been given out |
| a probe came through | `probed` | its piece goes back, with fewer suspects |
| a worker is idle, the queue empty | `to_cut` | names the piece that half of the rest is to be taken from |
| its worker has cut it | `cut` | the rest is a piece of its own, for the worker that was idle |

A piece that was there when something went wrong is tried alone from then on: when its worker dies again, it is known
whose fault it was. Only such attempts count against `shard_attempts`. A piece that has used them up is set aside when
it failed with an error; when it killed its workers, poison.py looks for the rows that do, and they alone are lost.
No call looks at all pieces or all workers but `to_cut`, which looks at those at work: bench/dispatch.py measures it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dgbatch.runner.piece import Key, Piece, Place, Task
from dgbatch.runner.poison import Blame, Fate, Search

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class Tries:
    """What came of a piece that something happened to."""

    search: Search
    attempts: int = 0  # that came to nothing; probes are none
    faults: int = 0  # those of them that no other piece can be blamed for


class Dispatch:
    """Owns the state of every piece that is not committed yet."""

    def __init__(self, pieces: Iterable[Piece], shard_attempts: int = 3, tries: Mapping[Key, Tries] | None = None):
        self.shard_attempts = shard_attempts
        every = list(pieces)
        self.tries = known(every, tries or {})  # none for a piece that nothing happened to
        self.pending = deque(sorted(every, key=lambda piece: piece.key in self.tries))  # tried ones at the back
        self.running: dict[str, dict[Place, Piece]] = {}  # worker -> the pieces it holds; no empty ones
        self.given_up: dict[Key, Piece] = {}
        self.poison_rows = sum(len(each.search.poison) for each in self.tries.values())  # not committed yet
        self._unstarted: dict[tuple[str, Place], int] = {}  # rows of pieces that may be cut, as was last heard
        self._most_unstarted = 0  # no piece has more
        self._cutting: dict[tuple[str, Place], str] = {}  # pieces that are being cut -> for whom
        self._promised: dict[str, Piece | None] = {}  # those workers -> what was cut off for them

    @property
    def done(self) -> bool:
        """Nothing waits and nobody works."""
        return not self.pending and not self.running and not any(self._promised.values())

    @property
    def busy(self) -> int:
        """Workers that hold a piece."""
        return len(self.running)

    def held(self, worker: str) -> list[Piece]:
        return list(self.running.get(worker, {}).values())

    def is_searched(self, piece: Piece) -> bool:
        """Whether a row is sought in it that kills its worker."""
        return piece.key in self.tries and self.tries[piece.key].search.on

    def next_for(self, worker: str, rows: int) -> list[Task]:
        """Pieces that cover at least `rows` more rows for this worker."""
        held = self.running.get(worker, {})
        given: list[Task] = []
        if any(piece.key in self.tries for piece in held.values()):
            return given
        if (promised := self._promised.get(worker)) is not None:
            del self._promised[worker]
            return [self._give(worker, promised)]
        while rows > 0 and self.pending:
            tries = self.tries.get(self.pending[0].key)
            if tries and (held or given):
                break  # every piece behind it has been tried before, too: they queue at the back
            given.append(self._give(worker, self.pending.popleft()))
            if tries:
                break
            rows -= given[-1].piece.rows
        return given

    def finished(self, worker: str, place: Place, stop: int | None = None) -> None:
        """A piece is committed; up to this row, if its worker was told to leave before it had done them all."""
        piece = self._take(worker, place)
        tries = self.tries.pop(piece.key, None)
        if tries:
            self.poison_rows -= len(tries.search.poison)
        if stop is not None and stop < piece.stop:
            _, rest = piece.cut(stop)
            if tries:
                self.tries.update(known([rest], {piece.key: tries}))
                self.poison_rows += len(self.tries[rest.key].search.poison)
            self._put_back(rest, untouched=True)

    def probed(self, worker: str, place: Place) -> None:
        """The rows of a probe came through."""
        piece = self._take(worker, place)
        self.tries[piece.key].search.survived()
        self._put_back(piece)

    # ---- what goes wrong

    def failed(self, worker: str, place: Place) -> bool:
        """Put one piece of this worker back, at fault itself; False when it has used up its attempts."""
        piece = self._take(worker, place)
        tries = self._tried(piece)
        tries.faults += 1
        if tries.faults < self.shard_attempts:
            self._put_back(piece)
            return True
        self._give_up(piece)
        return False

    def lost(self, worker: str, blame: Blame) -> Fate:
        """Put back all that a dead worker held. One piece alone is at fault; of several, nobody knows which."""
        held = self._take_all(worker)
        tries = [self._tried(piece) for piece in held]
        if len(held) == 1:
            fate = self._blame(tries[0], blame)
            if fate == "given_up":
                self._give_up(held[0])
                return fate
        else:
            fate = "again"
        for piece in held:
            self._put_back(piece)
        return fate

    def short(self, worker: str) -> None:
        """Put back all that a worker held whose device ran out of memory, to be tried alone with fewer canvases."""
        for piece in self._take_all(worker):
            self._tried(piece)
            self._put_back(piece)

    def left(self, worker: str) -> None:
        """Put back all that a worker held that was told to leave."""
        for piece in reversed(self._take_all(worker)):
            self._put_back(piece, untouched=True)

    def acquit(self) -> None:
        """Forget what the searches found that are on: workers die whatever they run."""
        for tries in self.tries.values():
            if tries.search.on:
                self.poison_rows -= len(tries.search.poison)
                tries.search = Search(tries.search.first, tries.search.stop)

    def poison(self) -> Iterator[tuple[Key, int, Blame]]:
        """Each poison row that is not committed yet: its piece, its row, and why."""
        for key, tries in self.tries.items():
            for row, blame in tries.search.poison.items():
                yield key, row, blame

    # ---- the tail: idle workers take over halves

    def heard(self, worker: str, unstarted: Iterable[tuple[Place, int]]) -> None:
        """What a worker says of its pieces: how many rows of each its engine has not been given."""
        for place, rows in unstarted:
            if (worker, place) in self._unstarted:
                self._unstarted[worker, place] = rows  # never more than before

    def to_cut(self, worker: str, least: int) -> tuple[str, Place] | None:
        """For a worker that is idle: whose piece has the most rows that nobody has begun, if it has this many.

        That piece is not named again before its worker has answered, which `cut` is for.
        """
        if self.pending or self._most_unstarted < least or not self._unstarted or worker in self._promised:
            return None
        if any(piece.key in self.tries for piece in self.running.get(worker, {}).values()):
            return None
        (owner, place), rows = max(self._unstarted.items(), key=lambda item: item[1])
        self._most_unstarted = rows
        if rows < least or owner == worker:
            return None
        del self._unstarted[owner, place]
        self._cutting[owner, place] = worker
        self._promised[worker] = None
        return owner, place

    def cut(self, worker: str, place: Place, at: int | None) -> None:
        """The worker keeps the rows before this one, and the rest is anybody's; None: it has none to spare."""
        idle = self._cutting.pop((worker, place), "")
        self._promised.pop(idle, None)
        if at is not None:
            self.running[worker][place], rest = self.running[worker][place].cut(at)
            if idle:
                self._promised[idle] = rest  # not in the queue: the worker that was too slow would take it again
            else:
                self._put_back(rest, untouched=True)
            self._hear(worker, place, at - place[1])

    # ---- inside

    def _give(self, worker: str, piece: Piece) -> Task:
        self.running.setdefault(worker, {})[piece.place] = piece
        if tries := self.tries.get(piece.key):
            search = tries.search
            return Task(piece, tries.attempts + 1, dict(search.poison), search.probe)
        self._hear(worker, piece.place, piece.rows)
        return Task(piece)

    def _hear(self, worker: str, place: Place, rows: int) -> None:
        self._unstarted[worker, place] = rows
        self._most_unstarted = max(self._most_unstarted, rows)

    def _blame(self, tries: Tries, blame: Blame) -> Fate:
        if tries.search.on:
            fate = tries.search.died(blame)
            self.poison_rows += fate == "poisoned"
            return fate
        tries.faults += 1
        if tries.faults < self.shard_attempts and blame.code == "worker_killed":
            return "again"  # it may have been an accident; of memory there is never more than with one canvas
        tries.search.start()
        tries.faults = 0  # of the search's own
        return "searching"

    def _take(self, worker: str, place: Place) -> Piece:
        held = self.running[worker]
        piece = held.pop(place)
        if not held:
            del self.running[worker]
        self._unstarted.pop((worker, place), None)
        self._promised.pop(self._cutting.pop((worker, place), ""), None)
        return piece

    def _take_all(self, worker: str) -> list[Piece]:
        if worker in self._promised:
            if (promised := self._promised.pop(worker)) is not None:
                self._put_back(promised, untouched=True)
            for cutting in [cutting for cutting, idle in self._cutting.items() if idle == worker]:
                self._cutting[cutting] = ""
        return [self._take(worker, piece.place) for piece in self.held(worker)]

    def _tried(self, piece: Piece) -> Tries:
        """Its tries, one more: from now on it is tried alone."""
        tries = self.tries.setdefault(piece.key, Tries(Search(piece.first, piece.stop)))
        tries.attempts += tries.search.probe is None
        return tries

    def _put_back(self, piece: Piece, untouched: bool = False) -> None:
        if untouched and piece.key not in self.tries:
            self.pending.appendleft(piece)
        else:
            self.pending.append(piece)

    def _give_up(self, piece: Piece) -> None:
        self.given_up[piece.key] = piece
        tries = self.tries[piece.key]
        tries.search.end()
        tries.faults = 0  # whoever submits again has mended something


def known(pieces: Iterable[Piece], tries: Mapping[Key, Tries]) -> dict[Key, Tries]:
    """What is known of each of these pieces, also where they were cut in other places when it was found out."""
    of_shard: dict[int, list[tuple[Key, Tries]]] = {}
    for key, each in tries.items():
        of_shard.setdefault(key[0], []).append((key, each))
    found: dict[Key, Tries] = {}
    for piece in pieces:
        if piece.key in tries:
            found[piece.key] = tries[piece.key]
            continue
        for (_, first, stop), each in of_shard.get(piece.shard.index, ()):
            if first < piece.stop and piece.first < stop:
                same = found.setdefault(piece.key, Tries(Search(piece.first, piece.stop)))
                same.attempts = max(same.attempts, each.attempts)
                inside = range(piece.first, piece.stop)
                same.search.poison |= {row: why for row, why in each.search.poison.items() if row in inside}
    return found
