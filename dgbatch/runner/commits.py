"""The commit records: the only truth about what is done. A shard is real when its record is, and never before.

One small JSON file for a whole shard (000042.json), for a piece of one (000042-000128-000256.json) or for one round of
`dgbatch retry` (000042.r1.json), named by what it is about and put only if absent. It does not know what is inside the
files that it names, only their names, sizes and checksums. Where records overlap, ledger.py decides which count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from dgbatch.errors import OutputError
from dgbatch.runner.sealed import sealed, unsealed
from dgbatch.runner.storage.folder import Folder
from dgbatch.runner.sums import NOTHING, Sums

COMMITS = "_dgbatch/commits"
EXTENSIONS = {"parquet": ".parquet", "arrow": ".arrow"}

_RECORD = re.compile(r"(?P<shard>\d{6,})(?:-(?P<first>\d{6,})-(?P<stop>\d{6,})|\.r(?P<round>[1-9]\d*))?\.json")
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
    """What a shard, or a piece of one, came to. Rows and tokens are sums over the rows in its files; lost attempts are
    not in it.
    """

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
    span: tuple[int, int] | None = None  # [first, stop) among the shard's selected rows; None: all of them
    round: int = 0  # of retry; its quarantine file takes the place of those of the records in `base`
    base: tuple[str, ...] = ()  # their attempts; nothing in round 0
    sums: Sums = NOTHING  # over the same rows; nothing in records of older versions

    @property
    def name(self) -> str:
        """Of its record."""
        return f"{COMMITS}/{record_name(self.shard, self.span, self.round)}"

    @property
    def files(self) -> tuple[FileRecord, ...]:
        return tuple(file for file in (self.data, self.quarantine) if file is not None)

    def to_json(self, run: str = "") -> bytes:
        """Readable JSON with its own checksum and its run's fingerprint in it. The same commit gives the same bytes."""
        body: dict[str, Any] = {name: getattr(self, name) for name in _NAMES}
        for kind in ("data", "quarantine"):
            body[kind] = body[kind] and asdict(body[kind])
        body |= {"sums": self.sums.to_json(), "run": run}
        for name, usual in WHOLE.items():
            if body[name] == usual:
                del body[name]
        return sealed(body, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, data: bytes, run: str = "") -> Commit:
        """The commit that these bytes are. ValueError says what is wrong with them."""
        body = unsealed(data)
        if body.pop("run", None) != run:
            raise ValueError("it belongs to another run")
        body = {**WHOLE, **body}
        if body.keys() != set(_NAMES):
            raise ValueError(f"its keys differ from a commit's: {', '.join(sorted(body.keys() ^ set(_NAMES)))}")
        files = {kind: body[kind] and FileRecord(**body[kind]) for kind in ("data", "quarantine")}
        span = body["span"] and tuple(body["span"])
        sums = Sums.from_json(body["sums"])
        commit = cls(**{**body, **files, "span": span, "base": tuple(body["base"]), "sums": sums})
        _check_place(commit)
        for kind in ("data", "quarantine"):
            _check_file(commit, kind)
        if commit.to_json(run) != data:
            raise ValueError("it is not written as dgbatch writes it")
        return commit


WHOLE: dict[str, Any] = {"span": None, "round": 0, "base": (), "sums": {}}  # not written down: most records are such
_NAMES = tuple(field.name for field in fields(Commit))


def part_name(folder: str, index: int, attempt: str, fmt: str) -> str:
    """The name of an attempt's file: no two attempts share one, so no file is ever written twice."""
    return f"{folder}/part-{index:06d}-{attempt}{EXTENSIONS[fmt]}"


def is_part(name: str) -> bool:
    """Whether dgbatch gave this name: nothing else is ever deleted."""
    return _PART.fullmatch(name) is not None


def record_name(index: int, span: tuple[int, int] | None = None, round: int = 0) -> str:
    piece = "" if span is None else f"-{span[0]:06d}-{span[1]:06d}"
    return f"{index:06d}{piece}{f'.r{round}' if round else ''}.json"


def put_commit(folder: Folder, run: str, commit: Commit) -> bool:
    """Publish one record of the run with this fingerprint; False when another attempt was first: that one stays."""
    data = commit.to_json(run)
    # A put whose answer was lost is still ours.
    return folder.put_if_absent(commit.name, data) or folder.get(commit.name) == data


def list_records(folder: Folder) -> list[str]:
    """Names of all commit records, shard by shard: whole, pieces, rounds."""
    return in_order(folder.list(COMMITS))


def in_order(names: Iterable[str]) -> list[str]:
    """Those of these names that are of records, as `list_records` has them."""
    return sorted((name for name in names if name.endswith(".json")), key=_place)


def read_commit(folder: Folder, run: str, name: str) -> Commit:
    """One record, believed only when it is whole, is of this run and lies under the name that its rows decide."""
    try:
        commit = Commit.from_json(folder.get(name), run)
        if name != commit.name:
            raise ValueError(f"it is the record {commit.name}, moved or copied here")
    except (ValueError, TypeError) as error:
        raise OutputError(
            f"commit record {folder.at(name)} cannot be trusted: {error}. Restore it from a copy; or have its rows "
            f"done anew: dgbatch verify {folder.path} --repair, and submit again."
        ) from None
    return commit


def shard_of(name: str) -> int | None:
    """Of the record of this name; None where dgbatch gives no such names."""
    match = _RECORD.fullmatch(name.rsplit("/", 1)[-1])
    return None if match is None else int(match["shard"])


def _place(name: str) -> tuple[int, int, int, int, str]:
    """Where a record stands in a listing; what is no name of ours stands first, to be refused."""
    match = _RECORD.fullmatch(name.rsplit("/", 1)[-1])
    if match is None:
        return -1, 0, 0, 0, name
    shard, first, stop, number = (int(match[part] or -1) for part in ("shard", "first", "stop", "round"))
    return shard, number, first, stop, name


def _check_place(commit: Commit) -> None:
    span = (0, 1) if commit.span is None else commit.span
    numbers = (commit.shard, commit.round, *span)
    if len(span) != 2 or not all(type(number) is int and number >= 0 for number in numbers) or span[0] >= span[1]:
        raise ValueError(f"shard {commit.shard!r}, rows {commit.span!r}, round {commit.round!r} is no piece of a run")
    if (commit.round > 0) != bool(commit.base) or (commit.round and commit.span is not None):
        raise ValueError("only a round of retry is based on other attempts, and it is about whole shards")


def _check_file(commit: Commit, kind: str) -> None:
    file: FileRecord | None = getattr(commit, kind)
    if file is None:
        return
    match = _PART.fullmatch(str(file.name))
    if not match or (match["folder"], int(match["shard"]), match["attempt"]) != (kind, commit.shard, commit.attempt):
        raise ValueError(f"{file.name!r} is not a name that its shard's {kind} file can have")
