"""SQL over a run, and the run as one file. With condition.py, the only home of duckdb.

Three views: completions and quarantine (the rows of committed shards, also while the run goes on) and shards (the plan,
with what is known of each). DuckDB reads them as Arrow datasets; what a query itself may open is: nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from dgbatch.errors import OutputError, QueryError
from dgbatch.runner.commits import FileRecord
from dgbatch.runner.folder import PARTIAL
from dgbatch.runner.ledger import Ledger
from dgbatch.runner.run_folder import Run
from dgbatch.runner.schema import Schemas
from dgbatch.runner.sink import ROW_GROUP_ROWS, stored_schema

READ_ONLY = {"SELECT", "EXPLAIN", "MULTI"}  # MULTI is PIVOT, which becomes several
CLOSED = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",  # or a query could read this program's variables
}
COPY = {"jsonl": "FORMAT json", "csv": "FORMAT csv, HEADER"}
TABLES = ("completions", "quarantine", "shards", "run")  # of a DuckDB file
EXPORTS = ("parquet", "jsonl", "csv", "duckdb")

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
    with explained(run), _connection(run) as connection:
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


def export(run: Run, target: str, fmt: str) -> int:
    """Write the completions of all committed shards as one file, in plan order; returns how many rows.

    parquet, jsonl and csv hold the completions; duckdb also quarantine, shards and run. Never over another file.
    """
    if fmt not in EXPORTS:
        raise OutputError(f"export: the format {fmt!r} is not known. It is one of {', '.join(EXPORTS)}.")
    if os.path.lexists(target):
        raise OutputError(f"export: {target} exists. Remove it, or choose another name.")
    ledger = run.ledger()
    if fmt == "parquet":
        write = _parquet_writer(run, ledger)
    elif fmt == "duckdb":
        write = _duckdb_writer(run, ledger)
    else:
        write = _copy_writer(run, ledger, COPY[fmt])
    with _beside(target) as partial:
        write(partial)
        _publish(partial, target, replace=False)
    return ledger.tally.ok


def write_duckdb(run: Run, path: str) -> None:
    """The run as a DuckDB file. One that an earlier submit of this run wrote is replaced, anybody else's is refused."""
    ours = holds_run(path, run.fingerprint)
    with _beside(path) as partial:
        _duckdb_writer(run, run.ledger())(partial)
        _publish(partial, path, replace=ours)


def holds_run(path: str, fingerprint: str) -> bool:
    """Whether this DuckDB file is the one of this run; False when there is none. Raises OutputError for another's."""
    if not os.path.lexists(path):
        return False
    if _fingerprint_in(path) != fingerprint:
        raise OutputError(f"output.duckdb: {path} exists and is not of this run. Remove it, or choose another name.")
    return True


def check_duckdb(path: str, fingerprint: str, columns: Schemas) -> None:
    """Raises OutputError before the work starts for what `write_duckdb` would refuse when it is done."""
    _check_types(columns)
    if holds_run(path, fingerprint):
        return
    folder = next(folder for folder in Path(path).absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"output.duckdb: {path} cannot be written: {error.strerror}. Choose another name.") from error


def _check_types(columns: Schemas) -> None:
    with duckdb.connect(":memory:", config=CLOSED) as connection:
        for field in _without_float16(pa.schema([*columns.data, *columns.quarantine])):
            try:
                connection.register("column", pa.schema([field]).empty_table()).execute("SELECT * FROM temp.column")
            except duckdb.Error:
                raise OutputError(
                    f"output.duckdb: column {field.name!r} is {field.type}, which DuckDB does not know. "
                    "Write it with another type, or leave output.duckdb out."
                ) from None


def _parquet_writer(run: Run, ledger: Ledger) -> Callable[[str], None]:
    data = _dataset(run, "data", ledger)

    def write(partial: str) -> None:
        with pq.ParquetWriter(partial, data.schema, compression="zstd") as writer:
            held: list[pa.RecordBatch] = []
            for batch in data.scanner(batch_readahead=4, fragment_readahead=4).to_batches():
                held.append(batch)
                if sum(len(batch) for batch in held) >= ROW_GROUP_ROWS:
                    writer.write_table(pa.Table.from_batches(held))
                    held.clear()
            if any(len(batch) for batch in held):
                writer.write_table(pa.Table.from_batches(held))

    return write


def _copy_writer(run: Run, ledger: Ledger, options: str) -> Callable[[str], None]:
    def write(partial: str) -> None:
        with _connection(run, ledger) as connection:
            data = connection.sql("FROM completions")
            columns = ", ".join(map(_spelled, data.columns, data.types)) if "csv" in options else "*"
            connection.execute(f"COPY (SELECT {columns} FROM completions) TO {_quoted(partial)} ({options})")

    return write


def _spelled(name: str, kind: duckdb.DuckDBPyType) -> str:
    """A column of a CSV file: JSON where CSV has no such values."""
    quoted = '"' + name.replace('"', '""') + '"'
    return f"to_json({quoted}) AS {quoted}" if kind.id in ("list", "struct", "map", "array", "union") else quoted


def _duckdb_writer(run: Run, ledger: Ledger) -> Callable[[str], None]:
    about = pa.table(
        {"name": [run.info["name"]], "fingerprint": [run.fingerprint], "created_at": [run.info["created_at"]]}
    )

    def write(partial: str) -> None:
        with _connection(run, ledger) as connection:
            connection.register("run", about)
            connection.execute(f"ATTACH {_quoted(partial)} AS target")
            for table in TABLES:
                connection.execute(f"CREATE TABLE target.{table} AS SELECT * FROM temp.{table}")
            connection.execute("DETACH target")

    return write


def _fingerprint_in(path: str) -> str | None:
    """Of which run this DuckDB file is; None for one that we did not write, or that holds tables of the user's."""
    try:
        with duckdb.connect(path, read_only=True) as connection:
            tables = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
            if tables != set(TABLES):
                return None
            found = connection.execute("SELECT fingerprint FROM run").fetchone()
    except (duckdb.Error, OSError):
        return None
    return str(found[0]) if found else None


@contextmanager
def _connection(run: Run, ledger: Ledger | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB in memory with the three views registered."""
    ledger = run.ledger() if ledger is None else ledger
    with (
        # Nobody else's to read: rows lie there when memory runs short.
        tempfile.TemporaryDirectory(prefix="dgbatch-sql-", ignore_cleanup_errors=True) as spill,
        duckdb.connect(":memory:", config={**CLOSED, "temp_directory": spill}) as connection,
    ):
        connection.register("completions", _dataset(run, "data", ledger, for_duckdb=True))
        connection.register("quarantine", _dataset(run, "quarantine", ledger, for_duckdb=True))
        connection.register("shards", _shards(run, ledger))
        yield connection


def _whole_numbers(answer: pa.Table) -> pa.Table:
    """DuckDB's sums of integers come as decimals of 38 digits; people and programs want them as integers."""
    for position, field in enumerate(answer.schema):
        if field.type == pa.decimal128(38, 0):
            with suppress(pa.ArrowInvalid):  # beyond 64 bits it stays a decimal
                answer = answer.set_column(position, field.name, answer.column(position).cast(pa.int64()))
    return answer


def _dataset(run: Run, kind: str, ledger: Ledger, for_duckdb: bool = False) -> ds.Dataset:
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
    schema = _without_float16(schema) if for_duckdb else schema
    if not records:
        return ds.dataset(schema.empty_table())
    return run.folder.dataset([file.name for file in records], schema, "parquet" if fmt == "parquet" else "ipc")


def _without_float16(schema: pa.Schema) -> pa.Schema:
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


@contextmanager
def _beside(target: str) -> Iterator[str]:
    """A name beside the target to write under; what is left there afterwards is removed."""
    folder = Path(target).absolute().parent
    partial = folder / f".{Path(target).name}.{uuid4().hex}{PARTIAL}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield str(partial)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, duckdb.IOException) as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise OutputError(f"{target}: cannot be written: {said}. Choose another name.") from error
    except (duckdb.Error, pa.ArrowException) as error:
        said = " ".join(str(error).split())
        raise OutputError(f"{target}: the run cannot be read: {said}. dgbatch verify lists what is damaged.") from error


def _publish(partial: str, target: str, replace: bool) -> None:
    """Give a finished file its name, in one step and for good."""
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    if replace:
        os.replace(partial, target)
        return
    try:
        os.link(partial, target)
    except FileExistsError:
        raise OutputError(f"{target}: came into being meanwhile. Remove it, or choose another name.") from None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
