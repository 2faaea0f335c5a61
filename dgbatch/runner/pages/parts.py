"""The rows of a run for DuckDB, some files at a time: to add up what it finds takes no more memory for more rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import duckdb

from dgbatch.runner.catalog import CLOSED, explained, files, refuse_gone

if TYPE_CHECKING:
    from dgbatch.runner.commits import FileRecord
    from dgbatch.runner.ledger import Ledger
    from dgbatch.runner.run_folder import Run

PART_ROWS = 100_000
PART_FILES = 200  # Arrow keeps the footer of each file that it has read

Ask = Callable[..., list[tuple[Any, ...]]]


def in_parts(run: Run, kind: str, ledger: Ledger) -> Iterator[Ask]:
    """For each part of the committed rows a function to ask it: a query over `rows`, values for its ?, tuples back.

    kind: data or quarantine. Temporary tables of one part are gone in the next. Raises OutputError for a file that is
    gone or cannot be read.
    """
    records: list[FileRecord] = getattr(ledger, kind)
    refuse_gone(run, kind, records)
    for part in parts(records):
        with explained(run), duckdb.connect(":memory:", config=CLOSED) as connection:
            connection.register("rows", files(run, kind, part, for_duckdb=True))

            def ask(
                query: str, values: Sequence[Any] = (), connection: duckdb.DuckDBPyConnection = connection
            ) -> list[tuple[Any, ...]]:
                with explained(run):  # who asks is outside the block above
                    return connection.execute(query, values).fetchall()

            yield ask


def parts(records: Sequence[FileRecord], rows: int = PART_ROWS, most: int = PART_FILES) -> Iterator[list[FileRecord]]:
    """The files in their order, together at most so many rows and files; a file of more rows is a part of its own."""
    part: list[FileRecord] = []
    held = 0
    for record in records:
        if part and (held + record.rows > rows or len(part) >= most):
            yield part
            part, held = [], 0
        part.append(record)
        held += record.rows
    if part:
        yield part
