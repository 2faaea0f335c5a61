"""The columns of a run, declared before the first row and never inferred: a first shard of nulls decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from dgbatch.errors import InputError, JobError
from dgbatch.runner.accept import Rules

if TYPE_CHECKING:
    from dgbatch.runner.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Schemas:
    """Both files of every shard, and where the input's columns are in them."""

    data: pa.Schema
    quarantine: pa.Schema
    data_columns: tuple[tuple[str, str], ...] = ()  # (column of the input, column of the output)
    quarantine_columns: tuple[tuple[str, str], ...] = ()

    @property
    def input_columns(self) -> tuple[str, ...]:
        """Columns of the input that the sink needs in each row, in the input's order."""
        return tuple(dict.fromkeys(name for name, _ in (*self.quarantine_columns, *self.data_columns)))


COMPLETION = (
    ("id", pa.string()),
    ("sample", pa.int32()),
    ("text", pa.string()),
    ("thinking", pa.string()),
    ("finish_reason", pa.string()),
    ("prompt_tokens", pa.int32()),
    ("tokens", pa.int32()),
    ("canvases", pa.int32()),
    ("denoise_steps", pa.int32()),
    ("token_ids", pa.list_(pa.field("element", pa.int32(), nullable=False))),
    ("noise_key", pa.uint64()),
    ("attempt", pa.int32()),
)
METRICS = (  # what output.metrics adds; the times are no part of what a job decides
    ("revised_tokens", pa.int32()),
    ("mean_entropy", pa.float32()),
    ("queue_s", pa.float32()),
    ("prefill_s", pa.float32()),
    ("denoise_s", pa.float32()),
)
FAILURE = (
    ("id", pa.string()),
    ("sample", pa.int32()),
    ("error_code", pa.string()),
    ("error_message", pa.string()),
    ("attempts", pa.int32()),
)


def schemas(spec: JobSpec, input_schema: pa.Schema) -> Schemas:
    """The data and quarantine columns of this job; input columns keep their type."""
    asked = (*COMPLETION, *(METRICS if spec.output.metrics else ()))
    own = [pa.field(name, kind, nullable=name == "thinking") for name, kind in asked]
    if spec.accept is not None and (names := Rules(spec.accept).names):
        own.append(pa.field("accepted", pa.bool_(), nullable=False))
        rules = pa.struct([pa.field(name, pa.bool_(), nullable=False) for name in names])
        own.append(pa.field("rules", rules, nullable=False))
    data_columns = _asked_for(spec, input_schema, {field.name for field in own})
    failure = [pa.field(name, kind, nullable=False) for name, kind in FAILURE]
    quarantine_columns = _whole_row(spec, input_schema)
    return Schemas(
        data=pa.schema([*own, *_carried(input_schema, data_columns)]),
        quarantine=pa.schema([*_carried(input_schema, quarantine_columns), *failure]),
        data_columns=data_columns,
        quarantine_columns=quarantine_columns,
    )


def _asked_for(spec: JobSpec, input_schema: pa.Schema, own: set[str]) -> tuple[tuple[str, str], ...]:
    """output.columns. The id column is there already when it is called id; any other clash is the user's to solve."""
    columns: list[tuple[str, str]] = []
    for name in dict.fromkeys(spec.output.columns):
        if name == "id" and spec.input.id == "id":
            continue
        if name in own:
            raise JobError(
                f"output.columns: {name!r} is also the name of a column that dgbatch writes. Rename it in the input, "
                f"or leave it out and join on id later."
            )
        if name not in input_schema.names:
            raise InputError(
                f"output.columns: no column {name!r} in the input; it has {', '.join(input_schema.names)}."
            )
        columns.append((name, name))
    return tuple(columns)


def _whole_row(spec: JobSpec, input_schema: pa.Schema) -> tuple[tuple[str, str], ...]:
    """Every column of the input; one that bears a name of ours becomes input_<name>, since nobody asked for it here."""
    taken = {name for name, _ in FAILURE} | set(input_schema.names)
    columns: list[tuple[str, str]] = []
    for name in input_schema.names:
        if name == "id" and spec.input.id == "id":
            continue
        output = name
        if name in dict(FAILURE):
            while output in taken:
                output = f"input_{output}"
            taken.add(output)
        columns.append((name, output))
    return tuple(columns)


def _carried(input_schema: pa.Schema, columns: tuple[tuple[str, str], ...]) -> list[pa.Field]:
    return [pa.field(output, _declared(input_schema.field(name).type)) for name, output in columns]


def _declared(kind: pa.DataType) -> pa.DataType:
    """The input's own type; a column that holds nothing but nulls is declared as text."""
    return pa.string() if pa.types.is_null(kind) else kind
