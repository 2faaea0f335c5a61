"""SQL over a run. With export.py and condition.py, the only home of duckdb.

Three views: completions and quarantine (the rows of committed shards, also while the run goes on) and shards (the plan,
with what is known of each). DuckDB reads them as Arrow datasets; what a query itself may open is: nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from dgbatch.errors import OutputError, QueryError
from dgbatch.runner.commits import FileRecord
from dgbatch.runner.ledger import Ledger
from dgbatch.runner.run_folder import Run
from dgbatch.runner.sink import stored_schema

READ_ONLY = {"SELECT", "EXPLAIN", "MULTI"}  # MULTI is PIVOT, which becomes several
CLOSED = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",  # or a query could read this program's variables
}

SHARDS = pa.schema(
    [
        pa.field("index", pa.int32(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("row_group", pa.int32(), nullable=False),
        pa.field("first_row", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("selected", pa.int64(), nullable=False),
        pa.field("committed", pa.bool_(), nullable=False),
        pa.field("attempt", pa.string()),  # null, like all that follows, until the shard is committed
        pa.field("ok", pa.int64()),
        pa.field("quarantined", pa.int64()),
        pa.field("accepted", pa.int64()),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("tokens", pa.int64()),
        pa.field("canvases", pa.int64()),
        pa.field("denoise_steps", pa.int64()),
        pa.field("seconds", pa.float64()),
        pa.field("worker", pa.string()),
        pa.field("committed_at", pa.string()),
    ]
)
PLANNED, SUMMED = SHARDS.names[:6], SHARDS.names[8:14]


def sql(run: Run, query: str) -> pa.Table:
    """The answer to one read-only query over completions, quarantine and shards; QueryError in DuckDB's words."""
    with explained(run), connected(run) as connection:
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        statements = connection.extract_statements(query)
        kinds = [statement.type.name for statement in statements]
        if kinds and not any(statement.query for statement in statements):
            kinds = kinds[-1:]  # before DuckDB 2 a PIVOT comes apart into statements of its making, which have no text
        if len(kinds) != 1 or kinds[0] not in READ_ONLY:
            said = "nothing" if not kinds else f"{len(kinds)} statements" if len(kinds) > 1 else kinds[0]
            raise QueryError(f"SQL: one SELECT is wanted, this is {said}: {' '.join(query.split())[:80]!r}")
        answer = connection.sql(query)
        if answer is None:
            raise QueryError(f"SQL: the query has no answer: {' '.join(query.split())[:80]!r}")
        return _whole_numbers(answer.to_arrow_table())


@contextmanager
def connected(run: Run, ledger: Ledger | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB in memory with the three views registered."""
    ledger = run.ledger() if ledger is None else ledger
    with (
        # Nobody else's to read: rows lie there when memory runs short.
        tempfile.TemporaryDirectory(prefix="dgbatch-sql-", ignore_cleanup_errors=True) as spill,
        duckdb.connect(":memory:", config={**CLOSED, "temp_directory": spill}) as connection,
    ):
        connection.register("completions", dataset(run, "data", ledger, for_duckdb=True))
        connection.register("quarantine", dataset(run, "quarantine", ledger, for_duckdb=True))
        connection.register("shards", _shards(run, ledger))
        yield connection


def _whole_numbers(answer: pa.Table) -> pa.Table:
    """DuckDB's sums of integers come as decimals of 38 digits; people and programs want them as integers."""
    for position, field in enumerate(answer.schema):
        if field.type == pa.decimal128(38, 0):
            with suppress(pa.ArrowInvalid):  # beyond 64 bits it stays a decimal
                answer = answer.set_column(position, field.name, answer.column(position).cast(pa.int64()))
    return answer


def dataset(run: Run, kind: str, ledger: Ledger, for_duckdb: bool = False) -> ds.Dataset:
    records: list[FileRecord] = getattr(ledger, kind)
    refuse_gone(run, kind, records)
    return files(run, kind, records, for_duckdb)


def refuse_gone(run: Run, kind: str, records: Sequence[FileRecord]) -> None:
    """OutputError when a file that a record names is not there any more."""
    present = {*run.folder.list(kind)} if records else set()
    if gone := [str(run.folder.at(file.name)) for file in records if file.name not in present]:
        raise OutputError(
            f"{gone[0]} is gone{f', and {len(gone) - 1} more' if len(gone) > 1 else ''}. Restore it; to list what is "
            f"missing: dgbatch verify {run.path}"
        )


def files(run: Run, kind: str, records: Sequence[FileRecord], for_duckdb: bool) -> ds.Dataset:
    """These files of data/ or quarantine/, which are there, as one table."""
    fmt = run.spec.output.format
    schema = stored_schema(getattr(run.schemas, kind), fmt)
    schema = without_float16(schema) if for_duckdb else schema
    if not records:
        return ds.dataset(schema.empty_table())
    return run.folder.dataset([file.name for file in records], schema, "parquet" if fmt == "parquet" else "ipc")


def without_float16(schema: pa.Schema) -> pa.Schema:
    """DuckDB has no float16; as float32 nothing of it is lost."""
    wide = [field.with_type(pa.float32()) if field.type == pa.float16() else field for field in schema]
    return pa.schema(wide, schema.metadata)


def _shards(run: Run, ledger: Ledger) -> pa.Table:
    """What is known of each shard: sums over its pieces and rounds, and who committed the last of them."""
    rows = []
    for shard in run.plan.shards:
        row: dict[str, Any] = {name: getattr(shard, name) for name in PLANNED}
        row["committed"] = ledger.is_done(shard.index)
        if commits := ledger.of_shard(shard.index):
            last = max(commits, key=lambda commit: commit.committed_at)
            row |= {name: getattr(last, name) for name in ("attempt", "worker", "committed_at")}
            row |= {name: getattr(ledger.sum_of(shard.index), name) for name in SUMMED}
            row["seconds"] = sum(commit.seconds for commit in commits)
        rows.append(row)
    return pa.Table.from_pylist(rows, SHARDS)


@contextmanager
def explained(run: Run) -> Iterator[None]:
    """What DuckDB says, as QueryError; OutputError where it is about a file of the run."""
    try:
        yield
    except duckdb.Error as error:
        if "reading the stream registered" in str(error):  # a file of ours, not the query
            said = " ".join(str(error).rpartition(" failed: ")[2].split())
            raise OutputError(
                f"{run.path}: the run cannot be read: {said} To list what is damaged: dgbatch verify {run.path}"
            ) from None
        raise QueryError(f"SQL: {str(error).strip()}\nThe tables are completions, quarantine and shards.") from None
