"""Files of rows: Parquet, JSONL, CSV and Arrow, each as a schema and numbered groups of rows.

A group is what can be read on its own: a Parquet row group, an Arrow record batch, about 8 MiB of whole lines. So no
reader holds more than one group.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dgbatch.errors import InputError, StoreFailed
from dgbatch.runner.storage import input_file
from dgbatch.runner.text_blocks import cut, read_block

FORMATS = {
    ".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv",
    ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow",
}  # fmt: skip
HASHED_BYTES = 8 << 20  # at once
KEEP_BYTES = 256 << 20  # a decoded group up to this size is kept for the next shard of the same group
BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Layout:
    """What a file holds, without its rows."""

    schema: pa.Schema
    groups: tuple[int, ...]  # rows of each group
    bytes: int
    digest: str  # of a Parquet file's footer, of any other file's whole content


def format_of(path: str) -> str:
    """parquet, jsonl, csv or arrow, by the file's ending."""
    ending = os.path.splitext(path)[1].lower()
    if ending not in FORMATS:
        raise InputError(f"{path}: the ending {ending or '(none)'!r} is not known. It is one of {', '.join(FORMATS)}.")
    return FORMATS[ending]


def layout(path: str) -> Layout:
    """Schema and groups of a file; from the footer alone for Parquet. Raises InputError for a damaged file."""
    kind = format_of(path)
    with _named(path, kind):
        size = input_file.stamp(path)[0]
        if size == 0:
            raise InputError(f"{path}: the file is empty (0 bytes). Write it again, or leave it out of input.path.")
        found = {"parquet": _parquet_layout, "arrow": _arrow_layout}.get(kind, _text_layout)(path, size)
        names = found.schema.names
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path}: the column {repeated[0]!r} is there twice. Rename one.")
    return found


def batches(path: str, group: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of one group in file order, with these columns; a column the file lacks is all null."""
    kind = format_of(path)
    with _named(path, kind):
        yield from _batches(path, kind, group, tuple(columns), input_file.stamp(path))


def _batches(
    path: str, kind: str, group: int, columns: tuple[str, ...], stamp: input_file.Stamp
) -> Iterator[pa.RecordBatch]:
    if kind == "parquet":
        with pq.ParquetFile(input_file.for_parquet(path), memory_map=False) as file:
            if file.metadata.row_group(group).total_byte_size > KEEP_BYTES:
                held = [name for name in columns if name in file.schema_arrow.names]
                for batch in file.iter_batches(BATCH_ROWS, [group], columns=held, use_threads=False):
                    yield from _select(pa.Table.from_batches([batch]), columns).to_batches()
                return
    yield from _group(path, kind, group, columns, stamp).to_batches(max_chunksize=BATCH_ROWS)


@lru_cache(maxsize=2)
def _group(path: str, kind: str, group: int, columns: tuple[str, ...], stamp: input_file.Stamp) -> pa.Table:
    """A decoded group; `stamp` is the file's size and time, so that a changed file is read anew."""
    if kind == "parquet":
        with pq.ParquetFile(input_file.for_parquet(path), memory_map=False) as file:
            held = [name for name in columns if name in file.schema_arrow.names]
            # With no column at all, a table forgets how many rows it has.
            return _select(
                file.read_row_group(group, columns=held or file.schema_arrow.names[:1], use_threads=False), columns
            )
    if kind == "arrow":
        with input_file.for_arrow(path, mapped=False) as source, pa.ipc.open_file(source) as reader:
            return _select(pa.Table.from_batches([_sound(reader.get_batch(group))]), columns)
    return _select(read_block(path, kind, group, stamp), columns)


def _sound(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch, once its offsets and indices are known to stay inside it: Arrow would follow them anywhere.

    Text that is not UTF-8 passes, as in Parquet: it costs its row.
    """
    for column in batch.columns:
        is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        bytes_type = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
        (column.view(bytes_type) if is_text else column).validate(full=True)
    return batch


def _select(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    held = set(table.column_names)
    arrays = [table.column(name) if name in held else pa.nulls(table.num_rows) for name in columns]
    if not arrays:
        return pa.table({"": pa.nulls(table.num_rows)})
    return pa.table(arrays, names=list(columns))


def _parquet_layout(path: str, size: int) -> Layout:
    with pq.ParquetFile(input_file.for_parquet(path), memory_map=False) as file:
        footer = file.metadata
        groups = tuple(footer.row_group(index).num_rows for index in range(footer.num_row_groups))
        schema = file.schema_arrow.remove_metadata()
    with input_file.open_input(path) as raw:
        raw.seek(size - 8)
        length = int.from_bytes(raw.read(4), "little")
        raw.seek(size - 8 - length)
        digest = hashlib.sha256(raw.read(length)).hexdigest()
    return Layout(schema, groups, size, digest)


def _arrow_layout(path: str, size: int) -> Layout:
    with input_file.for_arrow(path, mapped=True) as source, pa.ipc.open_file(source) as reader:
        groups = tuple(reader.get_batch(index).num_rows for index in range(reader.num_record_batches))
        schema = reader.schema.remove_metadata()
    digest = hashlib.sha256()
    with input_file.open_input(path) as raw:
        while data := raw.read(HASHED_BYTES):
            digest.update(data)
    return Layout(schema, groups, size, digest.hexdigest())


def _text_layout(path: str, size: int) -> Layout:
    blocks = cut(path, format_of(path), input_file.stamp(path))
    return Layout(blocks.schema, blocks.rows, size, blocks.digest)


@contextmanager
def _named(path: str, kind: str) -> Iterator[None]:
    """Whatever a reader says about a damaged file, as an InputError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. Check input.path.") from None
    except StoreFailed as error:
        raise InputError(f"{path}: cannot be read: {str(error).rstrip('.')}. Check input.path.") from error
    except PermissionError as error:
        raise InputError(f"{path}: may not be read. Check its permissions.") from error
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not readable as {kind}: {_line(error)}. The file is damaged, cut short or of another kind; write "
            "it again."
        ) from error


def _line(error: Any) -> str:
    return str(error).splitlines()[0].rstrip(". ") if str(error) else type(error).__name__
