"""JobSpec + input files -> Plan: the input cut into shards. The same input gives the same plan."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from dgbatch.errors import InputError
from dgbatch.runner import formats, source
from dgbatch.runner.accept import Rules
from dgbatch.runner.complaints import no_column
from dgbatch.runner.condition import Condition, IdHashes
from dgbatch.runner.generation import check_overrides
from dgbatch.runner.prompts import Renderer
from dgbatch.runner.schema import schemas
from dgbatch.runner.storage import location

if TYPE_CHECKING:
    from dgbatch.runner.spec import JobSpec

EXAMPLES = 5
CANDIDATES = 1000  # hashes of repeated ids that are looked up again, to show the ids themselves


@dataclass(frozen=True, slots=True)
class Shard:
    """The unit of work, retry and commit: rows [first_row, first_row + rows) of one row group."""

    index: int
    file: str  # relative to the input's root
    row_group: int
    first_row: int
    rows: int
    selected: int  # rows that pass input.where; == rows without one


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file, as the fingerprint sees it."""

    name: str  # relative to the input's root
    bytes: int
    rows: int
    digest: str  # sha256 of a Parquet footer, of any other file's content


@dataclass(frozen=True, slots=True)
class Plan:
    """Every selected row of the input, in exactly one shard."""

    shards: tuple[Shard, ...]
    rows: int  # selected, before samples
    files: tuple[InputFile, ...]
    schema: pa.Schema  # of the input
    samples: int

    @property
    def expected(self) -> int:
        """Rows of output the run owes: each row once per sample."""
        return self.rows * self.samples

    def to_table(self) -> pa.Table:
        """One row per shard; the rest of the plan in the table's metadata."""
        rest = {
            "files": [asdict(file) for file in self.files],
            "samples": self.samples,
            "schema": base64.b64encode(self.schema.serialize().to_pybytes()).decode(),
        }
        return pa.Table.from_pylist(
            [asdict(shard) for shard in self.shards],
            TABLE.with_metadata({"dgbatch.plan": json.dumps(rest, sort_keys=True)}),
        )

    @classmethod
    def from_table(cls, table: pa.Table) -> Plan:
        """The plan that `to_table` wrote down."""
        rest = json.loads((table.schema.metadata or {})[b"dgbatch.plan"])
        shards = tuple(Shard(**row) for row in table.select(TABLE.names).to_pylist())
        return cls(
            shards,
            sum(shard.selected for shard in shards),
            tuple(InputFile(**file) for file in rest["files"]),
            pa.ipc.read_schema(pa.py_buffer(base64.b64decode(rest["schema"]))),
            rest["samples"],
        )


TABLE = pa.schema(
    [
        pa.field("index", pa.int32(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("row_group", pa.int32(), nullable=False),
        pa.field("first_row", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("selected", pa.int64(), nullable=False),
    ]
)


def make_plan(spec: JobSpec) -> Plan:
    """Look at the input, check everything the job asks of it, and cut it into shards.

    Parquet without input.id and input.where is planned from the footers alone. Raises InputError.
    """
    shown = spec.public()["input"]["path"]
    root, names, layouts = _look(spec)
    schema = _common_schema(names, layouts)
    if not sum(sum(layout.groups) for layout in layouts):
        raise InputError(f"input.path: {shown} has no rows. Give a file with at least one prompt.")
    _check_columns(spec, names, layouts, schema)
    schemas(spec, schema)  # refuses output columns that clash
    shards = _shards(spec, root, names, layouts, schema)
    if not shards:
        total = sum(sum(layout.groups) for layout in layouts)
        raise InputError(f"input.where: none of the {total:,} rows passes {spec.input.where!r}. Loosen the condition.")
    selected = sum(shard.selected for shard in shards)
    return Plan(tuple(shards), selected, _input_files(names, layouts), schema, spec.generation.samples)


def input_files(spec: JobSpec) -> tuple[InputFile, ...]:
    """What the input is now, as a plan knows it: two plans of one job on the same files are the same."""
    _, names, layouts = _look(spec)
    return _input_files(names, layouts)


def _look(spec: JobSpec) -> tuple[str, list[str], list[formats.Layout]]:
    names = location.files(spec.input.path, spec.public()["input"]["path"])
    root = location.root(spec.input.path)
    _refuse_own_output(spec, root, names)
    return root, names, [formats.layout(location.join(root, name)) for name in names]


def _input_files(names: Sequence[str], layouts: Sequence[formats.Layout]) -> tuple[InputFile, ...]:
    pairs = zip(names, layouts, strict=True)
    return tuple(InputFile(name, layout.bytes, sum(layout.groups), layout.digest) for name, layout in pairs)


def cut(
    rows: int, shard_rows: int, positions: Sequence[int] | None, limit: int | None
) -> Iterator[tuple[int, int, int]]:
    """Cut one row group: (first row, rows, selected rows) of each shard, in order.

    positions: rows that pass input.where, ascending; None for all of them. A shard has at most shard_rows of them.
    limit:     take only so many selected rows.
    """
    total = rows if positions is None else len(positions)
    wanted = total if limit is None else min(limit, total)
    first = 0
    for start in range(0, wanted, shard_rows):
        selected = min(shard_rows, wanted - start)
        next_start = start + selected
        end = next_start if positions is None else positions[next_start - 1] + 1
        yield first, end - first, selected
        first = end


def _shards(
    spec: JobSpec, root: str, names: Sequence[str], layouts: Sequence[formats.Layout], schema: pa.Schema
) -> list[Shard]:
    condition = None
    if spec.input.where is not None:
        condition = Condition(spec.input.where, schema)
        condition.check(schema)
    left, shards = spec.input.limit, list[Shard]()
    hashes = IdHashes() if spec.input.id is not None else None
    for name, layout in zip(names, layouts, strict=True):
        path = location.join(root, name)
        for group, rows in enumerate(layout.groups):
            if left == 0:
                break
            positions = _scan_group(path, group, spec, condition, hashes, left)
            for first, count, selected in cut(rows, spec.workers.shard_rows, positions, left):
                shards.append(Shard(len(shards), name, group, first, count, selected))
                left = left if left is None else left - selected
    if hashes is not None:
        _refuse_repeated_ids(spec, shards, hashes)
    return shards


def _scan_group(
    path: str,
    group: int,
    spec: JobSpec,
    condition: Condition | None,
    hashes: IdHashes | None,
    limit: int | None,
) -> list[int] | None:
    """Positions of the selected rows of a group (None: all), up to the limit. Gives their ids to `hashes`."""
    if condition is None and hashes is None:
        return None
    found: list[int] = []
    for positions, ids in source.scan(path, group, spec.input, condition, limit):
        if positions is not None:
            found.extend(positions.to_pylist())
        if hashes is not None and ids is not None:
            hashes.add(ids)
    return None if condition is None else found


def _refuse_own_output(spec: JobSpec, root: str, names: Sequence[str]) -> None:
    output = location.real(spec.output.path) + "/"
    inside = [name for name in names if location.real(location.join(root, name)).startswith(output)]
    if inside or (root == spec.input.path and output.startswith(location.real(root) + "/")):
        raise InputError(
            "output.path: lies among the input files, so the next submit would read its own output. "
            "Choose a folder outside input.path."
        )


def _common_schema(names: Sequence[str], layouts: Sequence[formats.Layout]) -> pa.Schema:
    """The columns of all files together. A column has one type; an all-null one takes the type of the others."""
    first: dict[str, tuple[str, pa.Field]] = {}
    for name, layout in zip(names, layouts, strict=True):
        for field in layout.schema:
            had_in, had = first.get(field.name, (name, field))
            if pa.types.is_null(had.type) or field.name not in first:
                first[field.name] = (name, field)
            elif had.type != field.type and not pa.types.is_null(field.type):
                raise InputError(
                    f"input.path: column {field.name!r} is {had.type} in {had_in} and {field.type} in {name}. "
                    "Write it with one type in all files."
                )
    return pa.schema([pa.field(name, field.type) for name, (_, field) in first.items()])


def _check_columns(spec: JobSpec, names: Sequence[str], layouts: Sequence[formats.Layout], schema: pa.Schema) -> None:
    """Every column the job names is in every file, and is of a type that can be used so."""
    renderer = Renderer(spec, schema.names)
    wanted = [("input.id", spec.input.id)] if spec.input.id is not None else []
    wanted += [(f"accept.rules ({name})", column) for name, column in zip(*_rules(spec), strict=True)]
    wanted += [("output.columns", name) for name in spec.output.columns]
    reads = {spec.prompt.messages: "prompt.messages", spec.generation.overrides: "generation.overrides"}
    wanted += [(reads.get(name, "prompt"), name) for name in renderer.columns]
    for file, layout in zip(names, layouts, strict=True):
        if not sum(layout.groups):
            continue
        for wanted_by, column in wanted:
            if column not in layout.schema.names:
                raise InputError(no_column(wanted_by, column, layout.schema.names, file))
    if spec.input.id is not None:
        source.id_texts(pa.array([], schema.field(spec.input.id).type), spec.input.id)
    if spec.prompt.messages is not None:
        _check_messages(spec.prompt.messages, schema.field(spec.prompt.messages).type)
    if spec.generation.overrides is not None:
        check_overrides(spec.generation.overrides, schema.field(spec.generation.overrides).type)


def _rules(spec: JobSpec) -> tuple[Sequence[str], Sequence[str]]:
    rules = Rules(spec.accept)
    return rules.names, rules.columns


def _check_messages(column: str, kind: pa.DataType) -> None:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    fields = {field.name for field in kind.value_type} if is_list and pa.types.is_struct(kind.value_type) else set()
    if not pa.types.is_null(kind) and not {"role", "content"} <= fields:
        raise InputError(
            f"prompt.messages: column {column!r} is {kind}, not a list of {{role, content}}. For a column of text use "
            f"prompt.template: '{{{{ {column} }}}}'"
        )


def _refuse_repeated_ids(spec: JobSpec, shards: Sequence[Shard], hashes: IdHashes) -> None:
    repeated, extra = hashes.repeated()
    if not len(repeated):
        return
    chosen = set(repeated.slice(0, CANDIDATES).to_pylist())
    counts: Counter[str] = Counter()
    for shard in shards:
        texts = source.ids(shard, spec.input)
        found = hashes.of(pa.array(texts, pa.string())).to_pylist()
        counts.update(text for text, value in zip(texts, found, strict=True) if value in chosen)
    examples = [(text, count) for text, count in counts.items() if count > 1]
    if not examples:
        return  # two ids that differ and share a hash
    listed = ", ".join(f"{text!r} ({count} times)" for text, count in examples[:EXAMPLES])
    raise InputError(
        f"input.id: column {spec.input.id!r} repeats ids in {extra:,} rows: {listed}"
        f"{', ...' if len(repeated) > EXAMPLES else ''}. Each row needs its own id: choose another column, or leave "
        "input.id out."
    )
