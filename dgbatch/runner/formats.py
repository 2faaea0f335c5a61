"""Files of rows: Parquet, JSONL, CSV and Arrow, each as a schema and numbered groups of rows.

A group is what can be read on its own: a Parquet row group, an Arrow record batch, about 8 MiB of whole lines. So no
reader holds more than one group. CSV is text: every column is a string, as written. JSONL strings stay strings, also
those that look like dates.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from dgbatch.errors import InputError, StoreFailed
from dgbatch.runner import input_file

FORMATS = {
    ".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv",
    ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow",
}  # fmt: skip
BLOCK_BYTES = 8 << 20  # of a text file, read and parsed at once
KEEP_BYTES = 256 << 20  # a decoded group up to this size is kept for the next shard of the same group
BATCH_ROWS = 4096
MOST_DEPTH = 64  # of lists and objects in a row of JSON; Arrow's reader ends the process somewhere beyond ten thousand
TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)  # a string, or a bracket outside of one


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
    blocks = _blocks(path, stamp)
    with input_file.open_input(path) as file:
        return _select(
            _parse(kind, _read(file, blocks.offsets[group], blocks.offsets[group + 1]), blocks.schema, group), columns
        )


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
        while data := raw.read(BLOCK_BYTES):
            digest.update(data)
    return Layout(schema, groups, size, digest.hexdigest())


def _text_layout(path: str, size: int) -> Layout:
    blocks = _blocks(path, input_file.stamp(path))
    return Layout(blocks.schema, blocks.rows, size, blocks.digest)


@dataclass(frozen=True, slots=True)
class _Blocks:
    """A text file cut at line ends; block i is the bytes from offsets[i] to offsets[i + 1]."""

    schema: pa.Schema
    offsets: tuple[int, ...]
    rows: tuple[int, ...]
    digest: str


@lru_cache(maxsize=256)
def _blocks(path: str, stamp: input_file.Stamp) -> _Blocks:
    """One pass over the file: where to cut it, its rows and the types that hold all of them."""
    kind = format_of(path)
    offsets, digest = [0], hashlib.sha256()
    rows: list[int] = []
    schema: pa.Schema | None = None
    with input_file.open_input(path) as file:
        while data := _next_block(file, offsets[-1], kind):
            digest.update(data)
            table = _parse(kind, data, schema if kind == "csv" else None, len(rows))
            schema = table.schema if schema is None else _widened(path, schema, table.schema)
            offsets.append(offsets[-1] + len(data))
            rows.append(table.num_rows)
    return _Blocks(schema or pa.schema([]), tuple(offsets), tuple(rows), digest.hexdigest())


def _next_block(file: BinaryIO, offset: int, kind: str) -> bytes:
    """About BLOCK_BYTES of whole lines. A line break between a CSV cell's quotes ends no line."""
    data = b""
    while True:
        data += (more := _read(file, offset + len(data), offset + len(data) + BLOCK_BYTES))
        if len(more) < BLOCK_BYTES:
            return data
        cut = data.rfind(b"\n")
        inside = kind == "csv" and data.count(b'"', 0, cut + 1) % 2 == 1
        while inside and cut > 0:
            before = data.rfind(b"\n", 0, cut)
            inside = inside != (data.count(b'"', before + 1, cut + 1) % 2 == 1)
            cut = before
        if cut >= 0 and not inside:
            return data[: cut + 1]


def _read(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def _parse(kind: str, data: bytes, schema: pa.Schema | None, index: int) -> pa.Table:
    if not data.strip():
        return schema.empty_table() if schema is not None else pa.table({})
    if kind == "csv":
        return _parse_csv(data, schema, index)
    return _parse_jsonl(data.removeprefix(b"\xef\xbb\xbf") if index == 0 else data, schema)


def _parse_csv(data: bytes, schema: pa.Schema | None, index: int) -> pa.Table:
    read = pa.csv.ReadOptions(block_size=len(data) + 1, use_threads=False)
    if schema is not None and index > 0:
        read.column_names = schema.names
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    if schema is None:
        with pa.csv.open_csv(pa.BufferReader(data), read, parse, _all_text([])) as reader:
            schema = reader.schema
    return pa.csv.read_csv(pa.BufferReader(data), read, parse, _all_text(schema.names))


def _all_text(names: Sequence[str]) -> pa.csv.ConvertOptions:
    return pa.csv.ConvertOptions(
        column_types={name: pa.string() for name in names}, strings_can_be_null=False, null_values=[]
    )


def _parse_jsonl(data: bytes, schema: pa.Schema | None) -> pa.Table:
    _refuse_deep(data)

    def read(explicit: pa.Schema | None) -> pa.Table:
        return pa.json.read_json(
            pa.BufferReader(data),
            pa.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            pa.json.ParseOptions(explicit_schema=explicit),
        )

    if schema is not None:
        return read(schema)
    table = read(None)
    as_text = pa.schema([field.with_type(_dates_as_text(field.type)) for field in table.schema])
    return table if as_text.equals(table.schema) else read(as_text)


def _refuse_deep(data: bytes) -> None:
    """Looks closely only at a line of many brackets, and at everything where a line is not one object."""
    for line in map(bytes.strip, data.split(b"\n")):
        if line and not (line.startswith(b"{") and line.endswith(b"}")):
            return _refuse_deep_text(data)
        if len(line) > MOST_DEPTH and line.count(b"[") + line.count(b"{") > MOST_DEPTH:
            _refuse_deep_text(line)
    return None


def _refuse_deep_text(data: bytes) -> None:
    depth = 0
    for token in TOKEN.finditer(data):
        first = token[0][:1]
        if first in (b"[", b"{"):
            depth += 1
            if depth > MOST_DEPTH:
                raise pa.ArrowInvalid(f"a row nests lists and objects more than {MOST_DEPTH} deep")
        elif first != b'"':
            depth = max(depth - 1, 0)


def _dates_as_text(kind: pa.DataType) -> pa.DataType:
    """JSON has no dates: what the reader took for one is a string that looks like it."""
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_dates_as_text(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_dates_as_text(field.type)) for field in kind])
    return kind


def _widened(path: str, one: pa.Schema, other: pa.Schema) -> pa.Schema:
    try:
        return pa.unify_schemas([one, other], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(
            f"{path}: a column changes its type along the file: {_line(error)}. Write it alike."
        ) from error


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
