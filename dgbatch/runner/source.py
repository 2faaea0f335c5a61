"""Shard -> rows: reads ranges of the input files, applies input.where and names each row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from dgbatch.errors import InputError
from dgbatch.runner import formats
from dgbatch.runner.condition import Condition
from dgbatch.runner.storage.location import join, root

if TYPE_CHECKING:
    from dgbatch.runner.blocks import InputSpec
    from dgbatch.runner.plan import Shard


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
