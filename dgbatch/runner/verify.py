"""The proof: every input id exactly once per sample, in files that are still what was written.

By id, never by count: one row lost and one doubled still add up. Shard by shard, so memory does not grow with the run.
It believes the input, run.json and the plan (which carry checksums), and nothing else.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from dgbatch.errors import InputError, OutputError, RowError, StoreFailed, of_os_error
from dgbatch.runner import formats, source
from dgbatch.runner.commits import Commit, FileRecord, list_records, read_commit, shard_of
from dgbatch.runner.generation import RowSettings
from dgbatch.runner.ledger import Ledger
from dgbatch.runner.prompts import noise_key
from dgbatch.runner.run_folder import Run
from dgbatch.runner.sink import from_bytes, stored_schema
from dgbatch.runner.storage.input_file import is_file
from dgbatch.runner.storage.location import join, root
from dgbatch.runner.sums_proof import against_sums

if TYPE_CHECKING:
    from dgbatch.runner.plan import Shard

EXAMPLES = 5  # kept of each kind of fault

Key = tuple[str, int]  # row id, sample


@dataclass(slots=True)
class Verification:
    """What was found. `holds` is the invariant: input = ok + quarantined, each id once, every byte as written."""

    input: int = 0  # rows x samples that the plan owes
    ok: int = 0
    quarantined: int = 0
    missing: int = 0
    duplicate: int = 0
    unexpected: int = 0  # rows that the input does not have, or has in another shard
    checksum_errors: int = 0  # files and records that are not what was written
    replayed: int = 0  # rows that replay.py compared with what the model writes again
    replay_mismatches: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)  # by kind of fault, at most EXAMPLES each
    damaged: set[int] = field(default_factory=set)  # shards with files or records that are not what was written

    @property
    def holds(self) -> bool:
        faults = (self.missing, self.duplicate, self.unexpected, self.checksum_errors, self.replay_mismatches)
        return not any(faults) and self.input == self.ok + self.quarantined

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints: the counts, and examples of each fault."""
        return {**asdict(self), "damaged": sorted(self.damaged), "holds": self.holds}

    def lines(self) -> list[str]:
        """The same for people."""
        sign = "=" if self.input == self.ok + self.quarantined else "is not"
        lines = [
            f"in {self.input:,} {sign} ok {self.ok:,} + quarantined {self.quarantined:,}",
            f"missing {self.missing:,}, duplicate {self.duplicate:,}, unexpected {self.unexpected:,}, "
            f"checksum errors {self.checksum_errors:,}",
            *([self.replay_line()] if self.replayed else []),
        ]
        for kind, shown in self.examples.items():
            more = getattr(self, kind) - len(shown)
            lines += [f"  {kind}: {text}" for text in shown] + ([f"  {kind}: and {more:,} more"] if more else [])
        if self.holds:
            return [*lines, "holds: every input id is there exactly once, in files as they were written"]
        return [*lines, "DOES NOT HOLD"]

    def replay_line(self) -> str:
        """replayed 20 of 1,000 rows: token for token the same."""
        if not self.replayed:
            return "replayed nothing: the dataset has no rows"
        result = f"{self.replay_mismatches:,} not the same" if self.replay_mismatches else "token for token the same"
        return f"replayed {self.replayed:,} of {self.ok:,} rows: {result}"

    def __str__(self) -> str:
        return "; ".join(self.lines()[:2])

    def count(self, kind: str, what: Iterable[str]) -> None:
        """Add faults of one kind and keep the first few to show."""
        for text in what:
            setattr(self, kind, getattr(self, kind) + 1)
            shown = self.examples.setdefault(kind, [])
            if len(shown) < EXAMPLES:
                shown.append(text)


def verify(run: Run, on_progress: Callable[[int, int], None] | None = None) -> Verification:
    """Hold every committed file against its record, and every id against the input.

    on_progress: called with (shards looked at, shards). Raises InputError when the input is not what was planned.
    """
    check_input(run)
    found = Verification(input=run.plan.expected)
    ledger = believable(run, found)
    for done, shard in enumerate(run.plan.shards, 1):
        keys: Counter[Key] = Counter()
        last = ledger.last_round(shard.index)
        for commit in ledger.of_shard(shard.index):
            faults = _check_files(run, shard, commit, commit in last, found, keys)
            found.count("checksum_errors", faults)
            found.damaged |= {shard.index} if faults else set()
        names = source.ids(shard, run.spec.input)
        expected = {(name, sample) for name in names for sample in range(run.plan.samples)}
        found.count("missing", (label(key) for key in sorted(expected - keys.keys())))
        found.count("unexpected", (label(key) for key in sorted(keys.keys() - expected)))
        found.count("duplicate", (label(key) for key in sorted((keys - Counter(keys.keys())).elements())))
        if on_progress is not None:
            on_progress(done, len(run.plan.shards))
    if run.succeeded:
        found.count("checksum_errors", _strays(run, ledger))
    return found


def check_input(run: Run) -> None:
    """Raises InputError when the input is not what was planned."""
    folder = root(run.spec.input.path)
    for file in run.plan.files:
        path = join(folder, file.name)
        if not is_file(path):
            raise InputError(f"{path}: the input file is gone. verify needs the input that the run was made from.")
        now = formats.layout(path)
        if (now.bytes, now.digest) != (file.bytes, file.digest):
            raise InputError(
                f"{path}: the input file changed after planning. Put the one back that the run was made from."
            )


def believable(run: Run, found: Verification) -> Ledger:
    """What the records come to that are whole, of this run and of rows that it has."""
    ledger, commits = Ledger(run.plan.shards), list[Commit]()
    for name in list_records(run.folder):
        try:
            commit = read_commit(run.folder, run.fingerprint, name)
            if not ledger.fits(commit):
                raise OutputError(f"{name}: the plan has no such rows")
        except OSError as error:
            raise of_os_error(error, f"{run.folder.at(name)}: cannot be read", "Check its permissions.") from error
        except OutputError as error:
            found.count("checksum_errors", [str(error)])
            found.damaged.update(shard for shard in [shard_of(name)] if shard is not None)
        else:
            commits.append(commit)
    return Ledger.of(run.plan.shards, commits)


def _check_files(
    run: Run, shard: Shard, commit: Commit, is_last: bool, found: Verification, keys: Counter[Key]
) -> list[str]:
    """What is wrong with a commit's files. Their rows are counted in `found`, and their keys in `keys`.

    is_last: no later round took the place of its quarantine file.
    """
    faults: list[str] = []
    data = read_file(run, commit.data, "data", faults)
    quarantine = read_file(run, commit.quarantine, "quarantine", faults) if is_last else None
    found.ok += 0 if data is None else data.num_rows
    found.quarantined += 0 if quarantine is None else quarantine.num_rows
    for table in (data, quarantine):
        if table is not None:
            keys.update(zip(table.column("id").to_pylist(), table.column("sample").to_pylist(), strict=True))
    if not faults:  # a file that is not its own cannot be compared with its record
        faults += _against_record(commit, data, "data")
        faults += _against_record(commit, quarantine, "quarantine") if is_last else []
        faults += [] if data is None else _inside(data, commit, run.spec.generation.seed, _row_seeds(run, shard))
    return faults


def read_file(
    run: Run, record: FileRecord | None, kind: str, faults: list[str], columns: Sequence[str] | None = None
) -> pa.Table | None:
    """Rows of one file, whole or these columns of them; None where they cannot be had.

    Says in `faults` how the file differs from its record. Raises StoreFailed or OutputError where that cannot be known.
    """
    if record is None:
        return None
    try:
        raw = run.folder.get(record.name)
    except StoreFailed:  # it may well be as it was written: nobody can say now
        raise
    except PermissionError as error:
        raise of_os_error(error, f"{run.folder.at(record.name)}: cannot be read", "Check its permissions.") from error
    except OSError as error:
        faults.append(f"{record.name}: {error.strerror}")
        return None
    whole = hashlib.sha256(raw).hexdigest() == record.sha256 and len(raw) == record.bytes
    if not whole:
        faults.append(f"{record.name}: its bytes are not those that were written")
    try:
        table = from_bytes(raw, run.spec.output.format, columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        if whole:
            faults.append(f"{record.name}: cannot be read: {str(error).splitlines()[0]}")
        return None
    expected = stored_schema(getattr(run.schemas, kind), run.spec.output.format)
    if columns is not None:
        expected = pa.schema([expected.field(name) for name in columns])
    if not table.schema.equals(expected):
        if whole:
            faults.append(f"{record.name}: its columns are not those of the run")
        return None
    return table


def _against_record(commit: Commit, table: pa.Table | None, kind: str) -> list[str]:
    """Where the counts in a record differ from the rows in its data or quarantine file."""
    rows = 0 if table is None else table.num_rows
    actual: dict[str, Any] = {"quarantined": rows}
    if kind == "data":
        actual = {"ok": rows, "accepted": 0}
        for name in ("prompt_tokens", "tokens", "canvases", "denoise_steps"):
            actual[name] = 0 if table is None else pc.sum(table.column(name)).as_py() or 0
        if table is not None and "accepted" in table.column_names:
            actual["accepted"] = pc.sum(table.column("accepted")).as_py() or 0
    faults = [
        f"{commit.name}: the record says {name} {getattr(commit, name)}, its files {value}"
        for name, value in actual.items()
        if getattr(commit, name) != value
    ]
    if commit.sums:
        faults += [f"{commit.name}: {fault}" for fault in against_sums(commit, table, kind)]
    file: FileRecord | None = getattr(commit, kind)
    if file is not None and file.rows != rows:
        faults.append(f"{file.name}: its record says {file.rows} rows, it has {rows}")
    return faults


def _row_seeds(run: Run, shard: Shard) -> dict[str, int]:
    """The seed of each row that has settings of its own, by id."""
    settings = RowSettings(run.spec.generation, run.plan.schema.names)
    if settings.column is None:
        return {}
    seeds = {}
    for name, row in source.rows(shard, run.spec.input, [settings.column]):
        with suppress(RowError):  # such a row has no completion
            seeds[name] = settings.of(row).seed
    return seeds


def _inside(data: pa.Table, commit: Commit, seed: int, row_seeds: Mapping[str, int]) -> list[str]:
    """What each row says about itself must agree: its noise key, its token count, its verdict."""
    faults = []
    keys = zip(data.column("id").to_pylist(), data.column("sample").to_pylist(), strict=True)
    due = [noise_key(row_seeds.get(name, seed), name, sample) for name, sample in keys]
    if data.column("noise_key").to_pylist() != due:
        faults.append(f"shard {commit.shard}: a noise key is not that of its row")
    if pc.list_value_length(data.column("token_ids")).to_pylist() != data.column("tokens").to_pylist():
        faults.append(f"shard {commit.shard}: a row has another number of token ids than of tokens")
    if "rules" in data.column_names:
        verdicts = [all(rules.values()) for rules in data.column("rules").to_pylist()]
        if verdicts != data.column("accepted").to_pylist():
            faults.append(f"shard {commit.shard}: accepted is not what the rules of a row say")
    return faults


def _strays(run: Run, ledger: Ledger) -> list[str]:
    """Files in data/ and quarantine/ of a finished run that no record names: a plain glob would read them."""
    named = {file.name for file in (*ledger.data, *ledger.quarantine)}
    present = [name for folder in ("data", "quarantine") for name in run.folder.list(folder)]
    return [f"{name}: no commit record names it. Remove it." for name in present if name not in named]


def label(key: Key) -> str:
    """A row and its sample, for people."""
    return f"{key[0]} (sample {key[1]})" if key[1] else key[0]
