"""The rows that a task is about, from the input or, in a round of retry, those of them that are in quarantine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from dgbatch.errors import OutputError
from dgbatch.runner import source
from dgbatch.runner.again import Leftover

if TYPE_CHECKING:
    from dgbatch.runner.open_piece import OpenPiece
    from dgbatch.runner.spec import JobSpec
    from dgbatch.runner.storage.folder import Folder

DueRow = tuple[int, int, str, dict[str, Any], Sequence[int]]


def due_rows(opened: OpenPiece, spec: JobSpec, columns: Sequence[str], folder: Folder) -> Iterator[DueRow]:
    """Of each row from `opened.next` on: its number, the position of its first sample, id, row, and samples to run."""
    task, samples = opened.task, range(opened.samples)
    rows = enumerate(source.rows(task.piece.shard, spec.input, columns))
    if task.again is None:
        for number, (row_id, row) in islice(rows, opened.next, None):
            yield number, number * len(samples), row_id, row, samples
        return
    leftover = Leftover.read(folder, spec.output.format, task.again)
    number = 0
    for place, (row_id, row) in rows:
        position = place * len(samples)
        stay = leftover.kept(row_id, row)
        opened.kept += len(stay)
        opened.quarantined += ((position + kept.sample, kept) for kept in stay)
        if tried := leftover.due(row_id):
            opened.tried.update(((row_id, sample), attempts) for sample, attempts in tried.items())
            if number >= opened.next:
                yield number, position, row_id, row, sorted(tried)
            number += 1
    if strangers := leftover.strangers:
        raise OutputError(f"quarantine has {strangers[0]!r}, which shard {opened.place[0]} of the input does not have")
