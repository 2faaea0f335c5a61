"""A run as one file: its completions as Parquet, JSON lines or CSV, or all that is known of it as a DuckDB database."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from dgbatch.errors import OutputError
from dgbatch.runner.catalog import CLOSED, connected, dataset, without_float16
from dgbatch.runner.sink import ROW_GROUP_ROWS
from dgbatch.runner.storage.folder import PARTIAL

if TYPE_CHECKING:
    from dgbatch.runner.ledger import Ledger
    from dgbatch.runner.run_folder import Run
    from dgbatch.runner.schema import Schemas

COPY = {"jsonl": "FORMAT json", "csv": "FORMAT csv, HEADER"}
TABLES = ("completions", "quarantine", "shards", "run")  # of a DuckDB file
EXPORTS = ("parquet", "jsonl", "csv", "duckdb")


def export(run: Run, target: str, fmt: str) -> int:
    """Write the completions of all committed shards as one file, in plan order; returns how many rows.

    parquet, jsonl and csv hold the completions; duckdb also quarantine, shards and run. Never over another file.
    """
    if fmt not in EXPORTS:
        raise OutputError(f"export: the format {fmt!r} is not known. It is one of {', '.join(EXPORTS)}.")
    if "://" in target:
        raise OutputError(f"export: {target}: a file is written to a disk, not into a store. Give a path.")
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
        for field in without_float16(pa.schema([*columns.data, *columns.quarantine])):
            try:
                connection.register("column", pa.schema([field]).empty_table()).execute("SELECT * FROM temp.column")
            except duckdb.Error:
                raise OutputError(
                    f"output.duckdb: column {field.name!r} is {field.type}, which DuckDB does not know. "
                    "Write it with another type, or leave output.duckdb out."
                ) from None


def _parquet_writer(run: Run, ledger: Ledger) -> Callable[[str], None]:
    data = dataset(run, "data", ledger)

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
        with connected(run, ledger) as connection:
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
        with connected(run, ledger) as connection:
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
