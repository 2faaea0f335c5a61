"""Quarantined rows of one shard, once more: what a round of retry asks of a worker, and what the worker makes of it.

The round's files hold every row that was in quarantine: in data those that came through now, in quarantine all others,
those that were not run again among them. So the newest quarantine file of a shard is all of its quarantine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dgbatch.errors import OutputError
from dgbatch.runner.piece import Piece
from dgbatch.runner.sink import QuarantinedRow, from_bytes

if TYPE_CHECKING:
    from dgbatch.runner.commits import FileRecord
    from dgbatch.runner.piece import Task
    from dgbatch.runner.plan import Shard
    from dgbatch.runner.storage.folder import Folder

COLUMNS = ("id", "sample", "error_code", "error_message", "attempts")


@dataclass(frozen=True, slots=True)
class Again:
    """One round of retry of one shard."""

    shard: Shard
    round: int
    base: tuple[str, ...]  # attempts of the records whose quarantine files it takes the place of
    files: tuple[FileRecord, ...]  # those files
    codes: tuple[str, ...]  # run rows with these error codes; empty: all
    rows: int  # that are run again, however many of their samples
    samples: int  # of those rows, that are run again

    @property
    def queued(self) -> Piece:
        """The shard as dispatch sees it: as large as what there is to do."""
        return Piece(self.shard, 0, self.rows)

    def of(self, task: Task) -> Task:
        """What dispatch decided, as the worker has to hear it."""
        return replace(task, again=self)


class Leftover:
    """The quarantined samples of a shard: which are run again, and which stay as they are."""

    def __init__(self, lost: Sequence[dict[str, Any]], codes: Sequence[str] = ()):
        self._due: dict[str, dict[int, int]] = {}  # row id -> sample -> attempts so far
        self._kept: dict[str, list[dict[str, Any]]] = {}
        for each in lost:
            if not codes or each["error_code"] in codes:
                self._due.setdefault(each["id"], {})[each["sample"]] = each["attempts"]
            else:
                self._kept.setdefault(each["id"], []).append(each)

    @classmethod
    def read(cls, folder: Folder, fmt: str, again: Again) -> Leftover:
        """What the quarantine files of this round's base say. Raises OutputError for one that is not as written."""
        lost = []
        for file in again.files:
            raw = folder.get(file.name)
            if hashlib.sha256(raw).hexdigest() != file.sha256:
                raise OutputError(f"{folder.at(file.name)}: its bytes are not those that were written. Restore it.")
            lost += from_bytes(raw, fmt, COLUMNS).to_pylist()
        return cls(lost, again.codes)

    @property
    def rows(self) -> int:
        """To be run again."""
        return len(self._due)

    @property
    def samples(self) -> int:
        """To be run again, over all rows."""
        return sum(len(samples) for samples in self._due.values())

    def due(self, row_id: str) -> dict[int, int]:
        """The samples of a row that are run again, and how often each was tried. Asked once for each row."""
        return self._due.pop(row_id, {})

    def kept(self, row_id: str, row: dict[str, Any]) -> list[QuarantinedRow]:
        """The samples of a row that stay in quarantine as they are. Asked once for each row."""
        lost = self._kept.pop(row_id, [])
        return [
            QuarantinedRow(row_id, each["sample"], each["error_code"], each["error_message"], each["attempts"], row)
            for each in lost
        ]

    @property
    def strangers(self) -> list[str]:
        """Ids nobody asked for yet: when the shard is read, rows that it does not have."""
        return [*self._due, *self._kept]
