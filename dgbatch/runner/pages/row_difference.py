"""The rows of two runs, joined by id and sample in DuckDB: how many are the same, and some that are not.

What is held of a row is its id and some numbers; where that is more than MEMORY, DuckDB goes to the disk.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from dgbatch.errors import OutputError
from dgbatch.runner.sink import stored_schema

if TYPE_CHECKING:
    from dgbatch.runner.commits import FileRecord
    from dgbatch.runner.ledger import Ledger
    from dgbatch.runner.run_folder import Run

MEMORY = "1GB"  # of DuckDB
PART_FILES = 400  # read together: Arrow keeps the footer of each
EXAMPLES = 5
LONGEST = 20_000  # characters of a text that are kept

NARROW = """
insert into {side}_rows
select id, sample, hash(text, coalesce(thinking, '')), hash(token_ids), finish_reason, {accepted} from part
"""
COUNTS = """
select count(*) filter (a.id is not null and b.id is not null),
       count(*) filter (a.tokens_hash = b.tokens_hash and a.text_hash = b.text_hash),
       count(*) filter (a.text_hash = b.text_hash and a.tokens_hash <> b.tokens_hash),
       count(*) filter (a.text_hash <> b.text_hash),
       count(*) filter (b.id is null), count(*) filter (a.id is null),
       count(*) filter (b.id is null and exists (select 1 from b_lost l where l.id = a.id and l.sample = a.sample)),
       count(*) filter (a.id is null and exists (select 1 from a_lost l where l.id = b.id and l.sample = b.sample)),
       count(*) filter (a.accepted and b.accepted), count(*) filter (a.accepted and not b.accepted),
       count(*) filter (b.accepted and not a.accepted), count(*) filter (not a.accepted and not b.accepted)
from a_rows a full join b_rows b on a.id = b.id and a.sample = b.sample
"""
# Rows whose acceptance changed first; among equals in no order that the ids have, so that they are not all alike.
DIFFERENT = """
select a.id, a.sample from a_rows a join b_rows b on a.id = b.id and a.sample = b.sample
where a.text_hash <> b.text_hash or a.tokens_hash <> b.tokens_hash
order by a.text_hash = b.text_hash, a.accepted is not distinct from b.accepted, hash(a.id), a.sample limit ?
"""
WHOLE = f"""
select id, sample, left(text, {LONGEST}), left(thinking, {LONGEST}), finish_reason, tokens, denoise_steps, {{accepted}}
from part semi join chosen using (id, sample)
"""
COLUMNS = {
    "id", "sample", "text", "thinking", "token_ids", "tokens", "finish_reason", "denoise_steps", "accepted", "rules",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One completion, as far as two of them are compared."""

    text: str
    thinking: str | None
    finish_reason: str
    tokens: int
    denoise_steps: int
    accepted: bool | None  # None where the job has no rules


@dataclass(frozen=True, slots=True)
class Example:
    """A row that differs."""

    id: str
    sample: int
    a: Row
    b: Row


@dataclass(frozen=True, slots=True)
class RowDifference:
    """Counts of completed rows, each sample for itself."""

    both: int  # completed in both runs; of them
    same: int  # have the same tokens and text
    same_text: int  # the same text from other tokens
    different: int  # another text
    only_a: int
    only_b: int
    only_a_lost: int  # of only_a: in quarantine in B
    only_b_lost: int
    accepted_both: int  # of `both`, where both jobs have rules
    accepted_a: int  # by A alone
    accepted_b: int
    accepted_none: int
    examples: tuple[Example, ...] = ()
    ids: tuple[str, str] = ("", "")  # one of each run

    @property
    def agree(self) -> bool:
        return self.both == self.same and not self.only_a and not self.only_b


@dataclass(frozen=True, slots=True)
class Quality:
    """What the completed rows of one run are like."""

    finish: Mapping[str, int]  # reason -> rows
    rules: Mapping[str, int]  # rule -> rows that passed it


Committed = tuple["Run", "Ledger"]


def row_difference(
    a: Committed, b: Committed, examples: int = EXAMPLES, memory: str = MEMORY
) -> tuple[RowDifference, Quality, Quality]:
    """Compare all rows that both runs have committed. Raises OutputError for files that cannot be read."""
    try:
        with _connection(memory) as connection:
            qualities = [_load(connection, side, *run) for side, run in (("a", a), ("b", b))]
            (counts,) = connection.execute(COUNTS).fetchall()
            chosen = connection.execute(DIFFERENT, [examples]).fetchall()
            found = tuple(_examples(connection, a, b, chosen)) if chosen else ()
            one_each = [
                connection.execute(f"select coalesce(min(id), '') from {side}_rows").fetchall() for side in "ab"
            ]
            compared = replace(RowDifference(*counts), examples=found, ids=(one_each[0][0][0], one_each[1][0][0]))
            return compared, qualities[0], qualities[1]
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:300]
        raise OutputError(
            f"diff: the rows cannot be read: {said}. See which run is damaged: dgbatch verify {a[0].path}, and "
            f"dgbatch verify {b[0].path}"
        ) from error


def _load(connection: duckdb.DuckDBPyConnection, side: str, run: Run, ledger: Ledger) -> Quality:
    """Take in what is compared of the rows of one run."""
    connection.execute(
        f"create table {side}_rows "
        "(id varchar, sample integer, text_hash ubigint, tokens_hash ubigint, finish_reason varchar, accepted boolean)"
    )
    connection.execute(f"create table {side}_lost (id varchar, sample integer)")
    columns = run.schemas.data
    rules = [field.name for field in columns.field("rules").type] if "rules" in columns.names else []
    passed = Counter[str]()
    sums = ", ".join("sum((rules.{})::int)".format('"' + name.replace('"', '""') + '"') for name in rules)
    for _ in _parts(connection, run, ledger, "data"):
        connection.execute(NARROW.format(side=side, accepted="accepted" if rules else "null"))
        if rules:
            (found,) = connection.execute(f"select {sums} from part").fetchall()
            passed.update(dict(zip(rules, found, strict=True)))
    for _ in _parts(connection, run, ledger, "quarantine"):
        connection.execute(f"insert into {side}_lost select id, sample from part")
    finish = connection.execute(f"select finish_reason, count(*) from {side}_rows group by 1 order by 2 desc, 1")
    return Quality(dict(finish.fetchall()), {name: int(passed[name] or 0) for name in rules})


def _examples(
    connection: duckdb.DuckDBPyConnection, a: Committed, b: Committed, chosen: Sequence[tuple[str, int]]
) -> Iterator[Example]:
    """These rows, whole."""
    connection.execute("create table chosen (id varchar, sample integer)")
    connection.executemany("insert into chosen values (?, ?)", chosen)
    rows: list[dict[tuple[str, int], Row]] = []
    for run, ledger in (a, b):
        accepted = "accepted" if "accepted" in run.schemas.data.names else "null"
        rows.append({})
        for _ in _parts(connection, run, ledger, "data"):
            found = connection.execute(WHOLE.format(accepted=accepted)).fetchall()
            rows[-1] |= {(row[0], row[1]): Row(*row[2:]) for row in found}
    for row_id, sample in chosen:
        yield Example(row_id, sample, rows[0][row_id, sample], rows[1][row_id, sample])


def _parts(connection: duckdb.DuckDBPyConnection, run: Run, ledger: Ledger, kind: str) -> Iterator[None]:
    """The view `part`, of some of the run's files after the other."""
    fmt = run.spec.output.format
    columns = [field for field in stored_schema(getattr(run.schemas, kind), fmt) if field.name in COLUMNS]
    records: list[FileRecord] = getattr(ledger, kind)
    for begin in range(0, len(records), PART_FILES):
        names = [record.name for record in records[begin : begin + PART_FILES]]
        files = run.folder.dataset(names, pa.schema(columns), "parquet" if fmt == "parquet" else "ipc")
        connection.register("part", files)
        yield
        connection.unregister("part")


@contextmanager
def _connection(memory: str) -> Iterator[duckdb.DuckDBPyConnection]:
    with tempfile.TemporaryDirectory(prefix="dgbatch-diff-", ignore_cleanup_errors=True) as spill:
        settings = {
            "temp_directory": spill, "memory_limit": memory, "python_enable_replacements": "false",
            "autoinstall_known_extensions": "false", "autoload_known_extensions": "false",
        }  # fmt: skip
        with duckdb.connect(f"{spill}/rows.duckdb", config=settings) as connection:  # on the disk: tables may be large
            yield connection
