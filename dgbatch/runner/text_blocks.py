"""CSV and JSONL in blocks of whole lines, so that any part of a file can be read on its own.

CSV is text: every column is a string, as written. JSONL strings stay strings, also those that look like dates.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from dgbatch.errors import InputError
from dgbatch.runner.storage import input_file

BLOCK_BYTES = 8 << 20  # of a text file, read and parsed at once
MOST_DEPTH = 64  # of lists and objects in a row of JSON; Arrow's reader ends the process somewhere beyond ten thousand
TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)  # a string, or a bracket outside of one


@dataclass(frozen=True, slots=True)
class Blocks:
    """A text file cut at line ends; block i is the bytes from offsets[i] to offsets[i + 1]."""

    schema: pa.Schema
    offsets: tuple[int, ...]
    rows: tuple[int, ...]
    digest: str


@lru_cache(maxsize=256)
def cut(path: str, kind: str, stamp: input_file.Stamp) -> Blocks:
    """One pass over the file: where to cut it, its rows and the types that hold all of them.

    kind: csv or jsonl; stamp: the file's size and time, so that a changed file is cut anew. Raises what Arrow raises,
    and InputError for a column that is text here and a number there.
    """
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
    return Blocks(schema or pa.schema([]), tuple(offsets), tuple(rows), digest.hexdigest())


def read_block(path: str, kind: str, index: int, stamp: input_file.Stamp) -> pa.Table:
    """The rows of one block, in the types of the whole file."""
    blocks = cut(path, kind, stamp)
    with input_file.open_input(path) as file:
        return _parse(kind, _read(file, blocks.offsets[index], blocks.offsets[index + 1]), blocks.schema, index)


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
        said = str(error).splitlines()[0].rstrip(". ")
        raise InputError(f"{path}: a column changes its type along the file: {said}. Write it alike.") from error
