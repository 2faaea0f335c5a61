"""DuckDB over the rows of an input, in memory and with nothing else in sight: input.where, and ids that repeat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from dgbatch.errors import InputError
from dgbatch.runner.complaints import no_column

if TYPE_CHECKING:
    import duckdb

POSITION = "__dgbatch_position"
HASH_ROWS = 1 << 16  # ids hashed in one query
BUCKETS = 16  # of hashes, by their lowest bits
BUCKET_BITS = pa.scalar(BUCKETS - 1, pa.uint64())
# Looks, beside the functions DuckDB calls volatile, at words that need no parentheses.
CLOCKS = {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}
LITERAL = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)


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
