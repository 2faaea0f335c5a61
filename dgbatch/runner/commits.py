"""The commit records: the only truth about what is done. A shard is real when its record is, and never before.

One small JSON file per shard, named by the shard's index alone and put only if absent. It does not know what is inside
the files that it names, only their names, sizes and checksums.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from dgbatch.errors import OutputError
from dgbatch.runner.folder import Folder

COMMITS = "_dgbatch/commits"
EXTENSIONS = {"parquet": ".parquet", "arrow": ".arrow"}

_PART = re.compile(r"(?P<folder>data|quarantine)/part-(?P<shard>\d{6,})-(?P<attempt>[0-9a-f]{4,})\.(?:parquet|arrow)")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of a shard: enough to see that it is still the file that was written."""

    name: str  # relative to the run, e.g. data/part-000042-3f9c.parquet
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Commit:
    """What one shard came to. Rows and tokens are sums over the rows in its files; lost attempts are not in it."""

    shard: int
    attempt: str  # hex, at least 4 digits: part of the names of its files
    data: FileRecord | None  # None when every row went to quarantine
    quarantine: FileRecord | None  # None when no row did
    ok: int
    quarantined: int
    accepted: int  # 0 where the job has no accept rules
    prompt_tokens: int
    tokens: int
    canvases: int
    denoise_steps: int
    seconds: float  # worker time on this shard
    worker: str
    committed_at: str  # ISO 8601, UTC

    @property
    def files(self) -> tuple[FileRecord, ...]:
        return tuple(file for file in (self.data, self.quarantine) if file is not None)

    def to_json(self, run: str = "") -> bytes:
        """Readable JSON with its own checksum and its run's fingerprint in it. The same commit gives the same bytes."""
        body = {**asdict(self), "run": run}
        return (json.dumps({**body, "sha256": _digest(body)}, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, run: str = "") -> Commit:
        """The commit that these bytes are. ValueError says what is wrong with them."""
        body = json.loads(data)
        if not isinstance(body, dict):
            raise ValueError("it is not a JSON object")
        if body.pop("sha256", None) != _digest(body):
            raise ValueError("its content does not match its own checksum")
        if body.pop("run", None) != run:
            raise ValueError("it belongs to another run")
        names = {field.name for field in fields(cls)}
        if body.keys() != names:
            raise ValueError(f"its keys differ from a commit's: {', '.join(sorted(body.keys() ^ names))}")
        commit = cls(**{**body, **{kind: body[kind] and FileRecord(**body[kind]) for kind in ("data", "quarantine")}})
        for kind in ("data", "quarantine"):
            _check_file(commit, kind)
        if commit.to_json(run) != data:
            raise ValueError("it is not written as dgbatch writes it")
        return commit


def part_name(folder: str, index: int, attempt: str, fmt: str) -> str:
    """The name of a shard's file: no two attempts share one, so no file is ever written twice."""
    return f"{folder}/part-{index:06d}-{attempt}{EXTENSIONS[fmt]}"


def is_part(name: str) -> bool:
    """Whether dgbatch gave this name: nothing else is ever deleted."""
    return _PART.fullmatch(name) is not None


def record_name(index: int) -> str:
    return f"{index:06d}.json"


def put_commit(folder: Folder, run: str, commit: Commit) -> bool:
    """Publish one shard of the run with this fingerprint; False when another attempt was first: that one stays."""
    name, data = f"{COMMITS}/{record_name(commit.shard)}", commit.to_json(run)
    return folder.put_if_absent(name, data) or folder.get(name) == data  # a put whose answer was lost is still ours


def list_records(folder: Folder) -> list[str]:
    """Names of all commit records, in the order of their shards."""
    return sorted((name for name in folder.list(COMMITS) if name.endswith(".json")), key=lambda name: (len(name), name))


def read_commit(folder: Folder, run: str, name: str) -> Commit:
    """One record, believed only when it is whole, is of this run and lies under the name that its shard decides."""
    try:
        commit = Commit.from_json(folder.get(name), run)
        if name != f"{COMMITS}/{record_name(commit.shard)}":
            raise ValueError(f"it is the record of shard {commit.shard}, moved or copied here")
    except (ValueError, TypeError) as error:
        raise OutputError(
            f"commit record {folder.at(name)} cannot be trusted: {error}. Restore it from a copy, or remove it (and "
            f"_SUCCESS) and submit again: its shard is then done anew."
        ) from None
    return commit


def _check_file(commit: Commit, kind: str) -> None:
    file: FileRecord | None = getattr(commit, kind)
    if file is None:
        return
    match = _PART.fullmatch(str(file.name))
    if not match or (match["folder"], int(match["shard"]), match["attempt"]) != (kind, commit.shard, commit.attempt):
        raise ValueError(f"{file.name!r} is not a name that its shard's {kind} file can have")


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
