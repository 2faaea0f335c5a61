"""Two attempts at the same rows: the second one loses quietly, unless it wrote other tokens than the first.

A row's tokens follow from the job, the row and the checkpoint alone, so this is an error: the hardware, or a version of
something that was installed between two submits, is not the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dgbatch.errors import RunFailed
from dgbatch.runner.sink import from_bytes

if TYPE_CHECKING:
    from dgbatch.runner.commits import Commit, FileRecord
    from dgbatch.runner.storage.folder import Folder

Key = tuple[str, int]  # row id, sample


def refuse_other_tokens(folder: Folder, fmt: str, lost: Commit, standing: Commit) -> None:
    """RunFailed where a row has tokens in both attempts, and not the same; it names both files and the row."""
    if lost.data is None or standing.data is None or lost.attempt == standing.attempt:
        return
    ours, theirs = (_tokens(folder, fmt, file) for file in (lost.data, standing.data))
    for key, tokens in ours.items():
        if key in theirs and theirs[key] != tokens:
            raise RunFailed(
                f"{folder.path}: two attempts at shard {lost.shard} wrote other tokens for row {key[0]!r}, sample "
                f"{key[1]}: {standing.data.name} by worker {standing.worker}, which is committed and stays, and "
                f"{lost.data.name} by worker {lost.worker}. Tokens depend on the job, the row and the checkpoint "
                "alone, so look for another device, driver or version of torch among the workers; then submit again. "
                f"dgbatch verify {folder.path} --replay N says whether the committed rows can be had again."
            )


def _tokens(folder: Folder, fmt: str, file: FileRecord) -> dict[Key, Sequence[int]]:
    """Of each row in a data file; nothing where it cannot be read: verify is who says so."""
    columns = ("id", "sample", "token_ids")
    try:
        table = from_bytes(folder.get(file.name), fmt, columns)
    except (OSError, ValueError):
        return {}
    ids, samples, tokens = (table.column(name).to_pylist() for name in columns)
    return dict(zip(zip(ids, samples, strict=True), tokens, strict=True))
