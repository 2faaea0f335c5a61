"""Many commit records in one file, so that a run of twenty thousand shards is read in a moment.

_dgbatch/compact/<checksum>.parquet holds a copy of each record and which version of the record's file it was made from.
It is believed only about a record that is still there in that version, so it may be stale, lost or thrown away at any
time; the records stay the only truth. What decides over data, verify and the end of a run, reads them and not this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from dgbatch.runner.commits import COMMITS, Commit, FileRecord, in_order, read_commit
from dgbatch.runner.storage.store_uri import is_uri
from dgbatch.runner.sums import Sums

if TYPE_CHECKING:
    from dgbatch.runner.storage.folder import Folder

COMPACT = "_dgbatch/compact"
READERS = 16  # of an object store, which answers each in its own time; on a disk more than one is slower

_FILE = pa.struct([("name", pa.string()), ("rows", pa.int64()), ("bytes", pa.int64()), ("sha256", pa.string())])
_KINDS = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "FileRecord | None": _FILE,
          "tuple[int, int] | None": pa.list_(pa.int64()), "tuple[str, ...]": pa.list_(pa.string()),
          "Sums": pa.string()}  # fmt: skip
_NAMES = tuple(field.name for field in fields(Commit))
_SCHEMA = pa.schema([("version", pa.string()), *((field.name, _KINDS[str(field.type)]) for field in fields(Commit))])


def read_records(folder: Folder, run: str) -> tuple[list[Commit], int]:
    """All records of the run with this fingerprint, and how many of them had to be read one by one.

    Raises OutputError for a record that cannot be trusted.
    """
    versions = folder.versions(COMMITS)
    held = {
        commit.name: commit for version, commit in _compacted(folder, run) if versions.get(commit.name, "") == version
    }
    loose = [name for name in in_order(versions) if name not in held]
    if not loose:
        return list(held.values()), 0
    with ThreadPoolExecutor(READERS if is_uri(folder.path) else 1) as pool:
        return [*held.values(), *pool.map(lambda name: read_commit(folder, run, name), loose)], len(loose)


def compact(folder: Folder, run: str, commits: Iterable[Commit]) -> None:
    """Keep copies of these records, in place of all copies that were kept before. Any number may do it at once."""
    versions = folder.versions(COMMITS)
    kept = [commit for commit in commits if commit.name in versions]
    columns: dict[str, list[Any]] = {name: [getattr(commit, name) for commit in kept] for name in _NAMES}
    for kind in ("data", "quarantine"):
        columns[kind] = [file and {name: getattr(file, name) for name in _FILE.names} for file in columns[kind]]
    columns["sums"] = [sums.packed() for sums in columns["sums"]]
    columns["version"] = [versions[commit.name] for commit in kept]
    table = pa.table(columns, _SCHEMA.with_metadata({"dgbatch.run": run}))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    name = f"{COMPACT}/{_seal(data)}.parquet"
    folder.put_if_absent(name, data)
    for older in folder.list(COMPACT):
        if older != name:
            folder.delete(older)


def forget(folder: Folder) -> None:
    """Throw the copies away."""
    for name in folder.list(COMPACT):
        folder.delete(name)


def _compacted(folder: Folder, run: str) -> list[tuple[str, Commit]]:
    """(version of its file, record) for all copies; none of what is damaged or of another run."""
    found: list[tuple[str, Commit]] = []
    for name in folder.list(COMPACT):
        try:
            data = folder.get(name)
        except FileNotFoundError:  # a driver put a newer one in its place
            continue
        if name != f"{COMPACT}/{_seal(data)}.parquet":
            continue
        table = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)
        if not table.schema.equals(_SCHEMA) or (table.schema.metadata or {}).get(b"dgbatch.run", b"").decode() != run:
            continue
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
        for kind in ("data", "quarantine"):
            columns[kind] = [file and FileRecord(**file) for file in columns[kind]]
        columns["span"] = [span and tuple(span) for span in columns["span"]]
        columns["base"] = [tuple(base) for base in columns["base"]]
        columns["sums"] = [Sums.unpacked(text) for text in columns["sums"]]
        rows = zip(*(columns[name] for name in _NAMES), strict=True)
        found += zip(columns["version"], (Commit(*row) for row in rows), strict=True)
    return found


def _seal(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
