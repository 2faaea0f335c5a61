"""Shard -> rows: reads ranges of the input files, applies input.where and names each row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from dgbatch.errors import InputError
from dgbatch.runner import formats
from dgbatch.runner.complaints import no_column
from dgbatch.runner.location import join, root

if TYPE_CHECKING:
    import duckdb

    from dgbatch.runner.blocks import InputSpec
    from dgbatch.runner.plan import Shard

POSITION = "__dgbatch_position"
HASH_ROWS = 1 << 16  # ids hashed in one query
BUCKETS = 16  # of hashes, by their lowest bits
BUCKET_BITS = pa.scalar(BUCKETS - 1, pa.uint64())
# Looks, beside the functions DuckDB calls volatile, at words that need no parentheses.
CLOCKS = {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}
LITERAL = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)


def rows(shard: Shard, spec: InputSpec, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(row id, row) for each selected row of a shard, in file order. Raises InputError when the file has changed."""
    count = 0
    for names, batch in _selected(shard, spec, columns):
        count += batch.num_rows
        plain = _plain(batch.select(list(columns))) if columns else [{}] * batch.num_rows
        yield from zip(names, plain, strict=True)
    _unchanged(shard, count)


def ids(shard: Shard, spec: InputSpec) -> list[str]:
    """Ids of a shard's selected rows in file order; reads only the columns that decide them."""
    if spec.id is None and spec.where is None:
        return [f"{shard.file}:{shard.row_group}:{shard.first_row + index}" for index in range(shard.rows)]
    found = [name for names, _ in _selected(shard, spec, ()) for name in names]
    _unchanged(shard, len(found))
    return found


def _unchanged(shard: Shard, count: int) -> None:
    if count != shard.selected:
        raise InputError(
            f"{shard.file}: shard {shard.index} was planned with {shard.selected:,} rows and now has {count:,}. The "
            "file changed after planning: put it back, or start a new run."
        )


def _selected(shard: Shard, spec: InputSpec, columns: Sequence[str]) -> Iterator[tuple[list[str], pa.RecordBatch]]:
    path = join(root(spec.path), shard.file)
    condition = Condition(spec.where, formats.layout(path).schema) if spec.where is not None else None
    end, start = shard.first_row + shard.rows, 0
    for batch in formats.batches(path, shard.row_group, _needed(spec, columns, condition)):
        first = start
        start += batch.num_rows
        if start <= shard.first_row:
            continue
        skip = max(shard.first_row - first, 0)
        piece = batch.slice(skip, min(end, start) - first - skip)
        positions = condition.positions(piece) if condition else pa.array(range(piece.num_rows), pa.int64())
        kept = piece.take(positions) if condition else piece
        if spec.id is not None:
            yield id_texts(kept.column(spec.id), spec.id).to_pylist(), kept
        else:
            offset = first + skip
            yield [f"{shard.file}:{shard.row_group}:{offset + at}" for at in positions.to_pylist()], kept
        if start >= end:
            return


def scan(
    path: str, group: int, spec: InputSpec, condition: Condition | None, limit: int | None
) -> Iterator[tuple[pa.Array | None, pa.Array | None]]:
    """For the plan, batch by batch of a group: positions of the selected rows in the group, and their ids as text.

    Either is None where the job needs no reading for it: no input.where, no input.id. Stops after `limit` rows.
    """
    start = 0
    for batch in formats.batches(path, group, _needed(spec, (), condition)):
        positions = condition.positions(batch) if condition else None
        taken = batch.num_rows if positions is None else len(positions)
        if limit is not None:
            taken = min(taken, limit)
            limit -= taken
        if positions is not None:
            positions = positions.slice(0, taken)
        names = None
        if spec.id is not None:
            column = batch.column(spec.id)
            names = id_texts(column.slice(0, taken) if positions is None else column.take(positions), spec.id)
        yield None if positions is None else pc.add(positions, start), names
        start += batch.num_rows
        if limit == 0:
            return


def _needed(spec: InputSpec, columns: Sequence[str], condition: Condition | None) -> list[str]:
    extra = [] if spec.id is None else [spec.id]
    return list(dict.fromkeys([*columns, *extra, *(condition.columns if condition else ())]))


def id_texts(column: pa.Array, name: str) -> pa.Array:
    """The id column as strings, none null and none empty."""
    if is_id_type(column.type):
        texts = column.cast(pa.string())
        try:
            texts.validate(full=True)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"input.id: column {name!r} has an id that is not UTF-8 text: {error}. "
                "Mend it, or choose another column."
            ) from None
        if texts.null_count == 0 and not pc.any(pc.equal(texts, "")).as_py():
            return texts
        missing = len(texts) - pc.sum(pc.fill_null(pc.not_equal(texts, ""), False)).as_py()
        raise InputError(
            f"input.id: column {name!r} has {missing:,} null or empty ids. Fill them, or leave out input.id."
        )
    raise InputError(f"input.id: column {name!r} is {column.type}; ids are text or whole numbers. Choose another one.")


def is_id_type(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return is_id_type(kind.value_type)
    return is_text_type(kind) or pa.types.is_integer(kind)


def is_text_type(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return is_text_type(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _plain(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows as Python values.

    What Python has no value for (a time finer than a microsecond, the year 20,000, text that is not UTF-8) stays an
    Arrow scalar: the sink carries it as it is, and a template that prints it costs its row, not the shard.
    """
    columns = [_values(column) for column in batch.columns]
    return [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.Array) -> list[Any]:
    """Times of nanoseconds become microseconds, which is what Python has; never by rounding.

    Arrow itself would make them pandas' own times, or round them, where pandas is installed.
    """
    try:
        kind = _micro(column.type)
        return (column if kind == column.type else column.cast(kind)).to_pylist()
    except (ValueError, OverflowError):  # pyarrow's errors about values are ValueErrors
        if len(column) == 1:
            return list(column)
        return [value for index in range(len(column)) for value in _values(column.slice(index, 1))]


def _micro(kind: pa.DataType) -> pa.DataType:
    """The same type with microseconds for nanoseconds, inside lists and structs too."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_micro(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_micro(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_micro(kind.value_type)))
    if getattr(kind, "unit", "") != "ns":
        return kind
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return pa.time64("us") if pa.types.is_time(kind) else pa.duration("us")


def _connection() -> duckdb.DuckDBPyConnection:
    """DuckDB that sees the table it is given and nothing else: no files, no network, no Python variables."""
    import duckdb

    return duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
            "threads": "1",
        },
    )


class Condition:
    """input.where over batches of rows."""

    def __init__(self, where: str, schema: pa.Schema):
        self.where = where
        self._names = schema.names
        text = where.lower()
        everything = "*" in text or "columns" in text
        # A column that is named anywhere in the text may be meant; one too many does no harm.
        self.columns = [name for name in schema.names if everything or name.lower().replace('"', '""') in text]

    @cached_property
    def _duckdb(self) -> duckdb.DuckDBPyConnection:
        return _connection()

    def positions(self, batch: pa.RecordBatch) -> pa.Array:
        """Positions in the batch of the rows that pass, ascending: int64."""
        import duckdb

        table = pa.table({**{name: batch.column(name) for name in self.columns}, POSITION: range(batch.num_rows)})
        self._duckdb.register("input", table)
        try:
            query = f'SELECT "{POSITION}" FROM input WHERE ({self.where}\n) ORDER BY 1'
            return self._duckdb.sql(query).to_arrow_table().column(0).combine_chunks()
        except duckdb.Error as error:
            raise InputError(_explained(self.where, error, self._names)) from error
        finally:
            self._duckdb.unregister("input")

    def check(self, schema: pa.Schema) -> None:
        """Raises InputError for a condition that does not parse, or that answers differently another time."""
        import duckdb

        words = LITERAL.sub(" '' ", self.where.lower())
        volatile = {
            name for (name,) in self._duckdb.sql(
                "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'"
            ).fetchall()
        }  # fmt: skip
        called = set(re.findall(r"([a-z_][a-z0-9_]*)\s*\(", words)) & volatile
        if unstable := sorted(called | (set(re.findall(r"[a-z_]+", words)) & CLOCKS)):
            raise InputError(
                f"input.where: {unstable[0]} gives another answer each time, so the same job would take other rows. "
                "For a sample of the rows use a column, as in: hash(id) % 10 = 0"
            )
        if re.search(r"\bselect\b", words):
            raise InputError("input.where: holds a subquery. It sees one row at a time: compare columns with values.")
        try:
            statements = duckdb.extract_statements(f"SELECT 1 WHERE ({self.where}\n)")
        except duckdb.Error as error:
            raise InputError(_explained(self.where, error, self._names)) from error
        if len(statements) != 1:
            raise InputError(f"input.where: {self.where!r} is more than one statement. Write one condition.")
        empty = [pa.array([], schema.field(name).type) for name in self.columns]
        self.positions(pa.RecordBatch.from_arrays(empty, names=self.columns))


def _explained(where: str, error: Exception, names: Sequence[str]) -> str:
    """DuckDB's own message on one line, or our words for the commonest case."""
    said = " ".join(str(error).split("\n\nLINE")[0].split())
    if unknown := re.search(r'Referenced column "([^"]+)" (?:was )?not found', said):
        return no_column("input.where", unknown[1], names)
    return f"input.where: {where!r}: {said}. Write an SQL condition on the columns: {', '.join(names[:40])}."


class IdHashes:
    """Finds repeated ids among millions: 8 bytes each, and no Python object per id."""

    def __init__(self) -> None:
        self._duckdb = _connection()
        self._waiting: list[pa.Array] = []  # ids not hashed yet
        self._hashes: list[pa.Array] = []

    def add(self, texts: pa.Array) -> None:
        self._waiting.append(texts)
        if sum(map(len, self._waiting)) >= HASH_ROWS:
            self._hash()

    def _hash(self) -> None:
        if self._waiting:
            self._hashes.append(self.of(pa.concat_arrays(self._waiting)))
            self._waiting = []

    def of(self, texts: pa.Array) -> pa.Array:
        """64 bits per id. Equal ids have equal hashes; the reverse is checked by whoever found two."""
        self._duckdb.register("ids", pa.table({"id": texts}))
        try:  # in the order of the ids: DuckDB keeps it where nobody asks for another
            return self._duckdb.sql("SELECT hash(id) FROM ids").to_arrow_table().column(0).combine_chunks()
        finally:
            self._duckdb.unregister("ids")

    def repeated(self) -> tuple[pa.Array, int]:
        """Hashes that came more than once, each once, and how many rows there are beyond the first of each."""
        self._hash()
        found, extra = [], 0
        for bucket in range(BUCKETS):  # one after the other: to sort all at once takes three times their memory
            mine = [hashes.filter(pc.equal(pc.bit_wise_and(hashes, BUCKET_BITS), bucket)) for hashes in self._hashes]
            hashes = pa.chunked_array(mine, pa.uint64()).combine_chunks()
            ordered = hashes.take(pc.sort_indices(hashes))
            if len(ordered) > 1:
                again = ordered.slice(1).filter(pc.equal(ordered.slice(1), ordered.slice(0, len(ordered) - 1)))
                found.append(pc.unique(again))
                extra += len(again)
        return pa.chunked_array(found, pa.uint64()).combine_chunks(), extra
