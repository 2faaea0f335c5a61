"""Which commit records count, and what is left to do: one rule, in one place, for the driver and every reader.

A record of a whole shard beats those of its pieces. Pieces are taken in the order of their first row, the longer first,
and one that overlaps a piece already taken is not. A round of retry counts when it is based on just the records that
count so far: its rows come on top of theirs, and its quarantine file takes the place of theirs.

The rule needs nothing but the set of records, so all who see the same set believe the same. The driver never commits
what `accepts` refuses; two drivers that know nothing of each other may, and then the rule decides. What does not count
is like a lost attempt: never read, never counted, removed when the run is finalised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from dgbatch.runner.sums import NOTHING, Sums

if TYPE_CHECKING:
    from dgbatch.runner.commits import Commit, FileRecord
    from dgbatch.runner.plan import Shard


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over the records that count."""

    shards: int = 0  # done whole
    ok: int = 0
    quarantined: int = 0
    accepted: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    canvases: int = 0
    denoise_steps: int = 0
    sums: Sums = NOTHING

    @property
    def rows(self) -> int:
        return self.ok + self.quarantined

    @property
    def steps_per_canvas(self) -> float | None:
        return self.denoise_steps / self.canvases if self.canvases else None

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in _NAMES))

    def __sub__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) - getattr(other, name) for name in _NAMES))


_NAMES = tuple(field.name for field in fields(Tally))


class Ledger:
    """The records of one run. A reader makes it from all of them; the driver's grows with each commit."""

    def __init__(self, shards: Iterable[Shard]):
        self.tally = Tally()
        self.commits = 0  # records that count
        self._shards = {shard.index: shard for shard in shards}
        self._known: dict[int, tuple[Commit, ...]] = {}  # by shard, in the order they came
        self._counted: dict[int, tuple[Commit, ...]] = {}  # by shard: pieces in the order of their rows, then rounds
        self._foreign: list[Commit] = []

    @classmethod
    def of(cls, shards: Iterable[Shard], commits: Iterable[Commit]) -> Ledger:
        """What these records come to, in whatever order they are given."""
        ledger = cls(shards)
        by_shard: dict[int, list[Commit]] = {}
        for commit in commits:
            if ledger.fits(commit):
                by_shard.setdefault(commit.shard, []).append(commit)
            else:
                ledger._foreign.append(commit)
        for index, found in by_shard.items():
            ledger._know(index, tuple(found))
        return ledger

    def add(self, commit: Commit) -> None:
        """A record that is there now. Knowing it twice changes nothing."""
        assert self.fits(commit), commit.name
        known = self._known.get(commit.shard, ())
        if all(commit.name != each.name for each in known):
            self._know(commit.shard, (*known, commit))

    @property
    def records(self) -> int:
        """How many it knows of."""
        return sum(map(len, self._known.values()))

    def fits(self, commit: Commit) -> bool:
        """Whether the plan has the rows that this record is about."""
        shard = self._shards.get(commit.shard)
        return shard is not None and (commit.span is None or commit.span[1] <= shard.selected)

    def accepts(self, commit: Commit) -> bool:
        """Whether this commit would count, and every record that counts now still would."""
        if not self.fits(commit):
            return False
        after = chosen((*self._known.get(commit.shard, ()), commit))
        return commit in after and all(each in after for each in self.of_shard(commit.shard))

    def rivals(self, commit: Commit) -> list[Commit]:
        """Records that count and are about some of the same rows."""
        same = (each for each in self.of_shard(commit.shard) if each.round == commit.round)
        return [each for each in same if _overlap(each, commit)]

    # ---- what counts

    @property
    def known(self) -> list[Commit]:
        """All records of rows that the plan has, whether they count or not."""
        return [commit for index in sorted(self._known) for commit in self._known[index]]

    @property
    def counted(self) -> list[Commit]:
        """All records that count, in the order of the plan."""
        return [commit for index in sorted(self._counted) for commit in self._counted[index]]

    @property
    def lost(self) -> list[Commit]:
        """Records that do not count."""
        return [*self._foreign, *(commit for commit in self.known if commit not in self._counted[commit.shard])]

    def of_shard(self, index: int) -> tuple[Commit, ...]:
        """Those of one shard: pieces in the order of their rows, then rounds of retry."""
        return self._counted.get(index, ())

    def last_round(self, index: int) -> tuple[Commit, ...]:
        """Those of one shard that decide what is in quarantine."""
        return _last_round(self.of_shard(index))

    @property
    def data(self) -> list[FileRecord]:
        """The files that hold the dataset, in the order of the plan."""
        return [commit.data for commit in self.counted if commit.data is not None]

    @property
    def quarantine(self) -> list[FileRecord]:
        """The files that hold the quarantined rows; not those that a later round took the place of."""
        last = (commit for index in sorted(self._counted) for commit in self.last_round(index))
        return [commit.quarantine for commit in last if commit.quarantine is not None]

    def sum_of(self, index: int) -> Tally:
        """Over the records of one shard."""
        commits = self.of_shard(index)
        last = _last_round(commits)
        return Tally(
            shards=int(bool(commits) and self.is_done(index)),
            ok=sum(commit.ok for commit in commits),
            quarantined=sum(commit.quarantined for commit in last),
            accepted=sum(commit.accepted for commit in commits),
            prompt_tokens=sum(commit.prompt_tokens for commit in commits),
            tokens=sum(commit.tokens for commit in commits),
            canvases=sum(commit.canvases for commit in commits),
            denoise_steps=sum(commit.denoise_steps for commit in commits),
            sums=_sums_of(commits, last),
        )

    def has_round(self, index: int, number: int) -> bool:
        """Whether this round of retry of a shard is done."""
        return any(commit.round == number for commit in self.of_shard(index))

    # ---- what is left

    def missing(self, index: int) -> list[range]:
        """The selected rows of a shard that no record covers, as ranges of positions."""
        return list(_gaps(self.of_shard(index), self._shards[index].selected))

    def outstanding(self) -> list[tuple[Shard, range]]:
        """All rows that are left to do, in the order of the plan."""
        return [(shard, rows) for shard in self._shards.values() for rows in self.missing(shard.index)]

    def is_done(self, index: int) -> bool:
        """Whether every selected row of a shard is covered."""
        return not self.missing(index)

    @property
    def complete(self) -> bool:
        """Whether nothing is left."""
        return self.tally.shards == len(self._shards)

    def _know(self, index: int, commits: tuple[Commit, ...]) -> None:
        before = self.sum_of(index)
        self._known[index] = commits
        counted = chosen(commits)
        self.commits += len(counted) - len(self.of_shard(index))
        self._counted[index] = commits if counted == commits else counted  # one tuple for the usual shard, not two
        self.tally = self.tally - before + self.sum_of(index)


def chosen(commits: Sequence[Commit]) -> tuple[Commit, ...]:
    """The rule: which of the records of one shard count. They come in any order, and no two have one name."""
    taken: list[Commit] = []
    for commit in sorted((commit for commit in commits if not commit.round), key=_turn):
        if not any(_overlap(commit, other) for other in taken):
            taken.append(commit)
    for commit in sorted((commit for commit in commits if commit.round), key=lambda commit: commit.round):
        last = _last_round(taken)
        if last and commit.round == last[0].round + 1 and commit.base == base(last):
            taken.append(commit)
    return tuple(taken)


def base(commits: Sequence[Commit]) -> tuple[str, ...]:
    """What a round of retry says it is based on."""
    return tuple(commit.attempt for commit in commits)


def _turn(commit: Commit) -> tuple[int, int, int]:
    return (0, 0, 0) if commit.span is None else (1, commit.span[0], -commit.span[1])


def _overlap(one: Commit, other: Commit) -> bool:
    if one.span is None or other.span is None:
        return True
    return one.span[0] < other.span[1] and other.span[0] < one.span[1]


def _last_round(commits: Sequence[Commit]) -> tuple[Commit, ...]:
    return tuple(commit for commit in commits if commit.round == commits[-1].round)


def _sums_of(commits: tuple[Commit, ...], last: tuple[Commit, ...]) -> Sums:
    """Over the records of one shard; what is in quarantine is what those of the last round say."""
    sums = NOTHING
    for commit in commits:
        sums += commit.sums if commit in last else replace(commit.sums, quarantined=())
    return sums


def _gaps(commits: Iterable[Commit], rows: int) -> Iterator[range]:
    at = 0
    for commit in commits:
        if commit.round:
            break
        first, stop = (0, rows) if commit.span is None else commit.span
        if first > at:
            yield range(at, first)
        at = max(at, stop)
    if at < rows:
        yield range(at, rows)
