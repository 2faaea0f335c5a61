"""Completions -> one data file and one quarantine file per shard, each written whole or not at all.

The same rows give the same bytes: no timestamps, no run names, one writer configuration. A shard is built in memory (it
has a few hundred rows) and put under the name of its attempt; it is not real until the driver puts its commit record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dgbatch.errors import RunFailed
from dgbatch.records import Completion
from dgbatch.runner.commits import FileRecord, part_name
from dgbatch.runner.schema import Schemas
from dgbatch.runner.storage.folder import Folder
from dgbatch.runner.sums import Sums

ROW_GROUP_ROWS = 65_536  # a shard is one row group unless somebody asks for enormous shards


@dataclass(frozen=True, slots=True)
class OutputRow:
    """A completion on its way to data/."""

    completion: Completion
    attempt: int
    rules: dict[str, bool] | None  # None where the job has no accept rules
    row: dict[str, Any]  # at least Schemas.input_columns

    @property
    def accepted(self) -> bool:
        return self.rules is not None and all(self.rules.values())


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A sample given up on, on its way to quarantine/."""

    id: str
    sample: int
    error_code: str
    error_message: str
    attempts: int
    row: dict[str, Any]


def write_shard(
    folder: Folder,
    shard_index: int,
    attempt: str,
    fmt: str,
    schemas: Schemas,
    rows: Sequence[OutputRow],
    quarantined: Sequence[QuarantinedRow],
) -> tuple[FileRecord | None, FileRecord | None]:
    """Both files of one attempt at one shard, rows in the order given; None for a file that would be empty."""
    data = quarantine = None
    if rows:
        data = _write(folder, part_name("data", shard_index, attempt, fmt), fmt, _data_table(schemas, rows))
    if quarantined:
        name = part_name("quarantine", shard_index, attempt, fmt)
        quarantine = _write(folder, name, fmt, _quarantine_table(schemas, quarantined))
    return data, quarantine


def counts(rows: Sequence[OutputRow], quarantined: Sequence[QuarantinedRow]) -> dict[str, Any]:
    """The counting fields of a Commit, as verify will find them in the files."""
    done = [row.completion for row in rows]
    return {
        "ok": len(rows),
        "quarantined": len(quarantined),
        "accepted": sum(row.accepted for row in rows),
        "prompt_tokens": sum(completion.prompt_tokens for completion in done),
        "tokens": sum(completion.tokens for completion in done),
        "canvases": sum(completion.canvases for completion in done),
        "denoise_steps": sum(completion.denoise_steps for completion in done),
        "sums": Sums.of(done, (row.error_code for row in quarantined)),
    }


def to_bytes(table: pa.Table, fmt: str) -> pa.Buffer:
    """The one way in which dgbatch writes a table, as Parquet or as an Arrow file."""
    sink = pa.BufferOutputStream()
    if fmt == "parquet":
        pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP_ROWS, write_page_checksum=True)
    else:
        with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table, max_chunksize=ROW_GROUP_ROWS)
    return sink.getvalue()


def from_bytes(data: bytes, fmt: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The table of a file that `to_bytes` made, whole or those of these columns that it has, every byte checked."""
    if fmt == "parquet":
        # In this thread alone: one of Arrow's that still holds our bytes when Python ends aborts the process.
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, page_checksum_verification=True)
        table = file.read(columns, use_threads=False)
    else:
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
        table.validate(full=True)
    return table if columns is None else table.select([name for name in columns if name in table.column_names])


@lru_cache(maxsize=8)
def stored_schema(schema: pa.Schema, fmt: str) -> pa.Schema:
    """What a reader of a file with this schema sees: Parquet has no seconds, and one kind of dictionary."""
    source = pa.BufferReader(to_bytes(schema.empty_table(), fmt))
    return (pq.read_schema(source) if fmt == "parquet" else pa.ipc.open_file(source).schema).remove_metadata()


def _data_table(schemas: Schemas, rows: Sequence[OutputRow]) -> pa.Table:
    names = schemas.data.names
    columns: dict[str, list[Any]] = {}
    for name in names[: len(names) - len(schemas.data_columns)]:
        if name in ("attempt", "accepted", "rules"):
            columns[name] = [getattr(row, name) for row in rows]
        else:
            columns[name] = [getattr(row.completion, name) for row in rows]
    for name, output in schemas.data_columns:
        columns[output] = [row.row[name] for row in rows]
    return _table(schemas.data, columns)


def _quarantine_table(schemas: Schemas, rows: Sequence[QuarantinedRow]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        output: [row.row[name] for row in rows] for name, output in schemas.quarantine_columns
    }
    for name in ("id", "sample", "error_code", "attempts"):
        columns[name] = [getattr(row, name) for row in rows]
    # A message may quote the bad text that it is about, lone surrogates and all.
    columns["error_message"] = [row.error_message.encode("utf-8", "replace").decode() for row in rows]
    return _table(schemas.quarantine, columns)


def _table(schema: pa.Schema, columns: dict[str, list[Any]]) -> pa.Table:
    for field in schema:
        assert field.nullable or None not in columns[field.name], f"{field.name} is declared without nulls"
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def _write(folder: Folder, name: str, fmt: str, table: pa.Table) -> FileRecord:
    data = to_bytes(table, fmt)
    digest = hashlib.sha256(data).hexdigest()
    if not folder.put_if_absent(name, data) and hashlib.sha256(folder.get(name)).hexdigest() != digest:
        raise RunFailed(
            f"{folder.at(name)} exists with other rows. An attempt's name must be new: give the shard out again."
        )
    return FileRecord(name=name, rows=table.num_rows, bytes=len(data), sha256=digest)
