"""A run on disk: what it is, how it was cut, what is committed. The layout is drawn in docs/architecture.md.

    <path>/data, quarantine      files of shards, written by workers: sink.py
    <path>/_dgbatch/plan.parquet, run.json, commits/, events.jsonl, attempts.json
    <path>/_SUCCESS              the proof held

run.json is put last when a run is made: before it there is no run, only a half-made one that the next submit completes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dgbatch.errors import OutputError, RunFailed, RunNotFound, of_os_error
from dgbatch.records import CurvePoint
from dgbatch.runner import attempts
from dgbatch.runner.commits import COMMITS, Commit, is_part, list_records, put_commit, read_commit
from dgbatch.runner.compaction import COMPACT, compact, forget, read_records
from dgbatch.runner.dispatch import Tries
from dgbatch.runner.events import event_lines, read_events
from dgbatch.runner.fault_injection.faults import open_folder
from dgbatch.runner.layout import ATTEMPTS, EVENTS, LOGS, OURS, PLAN, RUN, SUCCESS, refuse_foreign
from dgbatch.runner.ledger import Ledger
from dgbatch.runner.piece import Key
from dgbatch.runner.plan import Plan, Shard
from dgbatch.runner.rivals import refuse_other_tokens
from dgbatch.runner.run_info import new_info, sealed_info, unsealed_info
from dgbatch.runner.schema import Schemas, schemas
from dgbatch.runner.spec import JobSpec
from dgbatch.runner.storage.folder import Folder
from dgbatch.runner.write_errors import losing_nothing, writing

COMPACT_EVERY = 1000  # records: that many are read one by one in less than a second


class Run:
    """A run folder. Make one with `Run.create` or `Run.open`."""

    def __init__(self, folder: Folder, info: dict[str, Any]):
        self.folder = folder
        self.info = info
        self._loose = 0  # records that are in no compaction, as far as this process knows

    @classmethod
    def create(
        cls,
        path: str,
        spec_public: dict[str, Any],
        plan: Plan,
        fingerprint: str,
        versions: Mapping[str, Any],
        model: Mapping[str, Any],
    ) -> Run:
        """A new run in this folder, or the one of the same fingerprint that is there. Never over anything else.

        The caller holds the lock. A crash in here leaves a folder that the next call completes.
        """
        folder = open_folder(path)
        table = pa.BufferOutputStream()
        pq.write_table(plan.to_table(), table, compression="zstd")
        plan_bytes = table.getvalue().to_pybytes()
        info = new_info(spec_public, plan, hashlib.sha256(plan_bytes).hexdigest(), fingerprint, versions, model)
        with writing(path):
            refuse_foreign(path)
            if not folder.exists(RUN):
                folder.put(PLAN, plan_bytes)
                folder.put_if_absent(RUN, sealed_info(info))
        run = cls.open(path)
        if run.fingerprint != fingerprint:
            raise OutputError(
                f"output.path: {path} holds another run, {run.info['name']!r} of {run.info['created_at']}. "
                f"Choose another folder, or submit with --new-run."
            )
        return run

    @classmethod
    def open(cls, path: str) -> Run:
        """The run in this folder. Raises RunNotFound, or OutputError for a run.json that is damaged."""
        folder = open_folder(path)
        try:
            data = folder.get(RUN)
        except (FileNotFoundError, NotADirectoryError):
            raise RunNotFound(
                f"{path}: no run here ({RUN} is missing). Give the folder that output.path named."
            ) from None
        except OSError as error:
            raise of_os_error(error, f"{folder.at(RUN)}: cannot be read", "Check its permissions.") from error
        try:
            return cls(folder, unsealed_info(data))
        except ValueError as error:
            raise OutputError(
                f"{folder.at(RUN)}: {error}. Restore it from a copy, or submit into another folder."
            ) from None

    def note_canvases(self, device: str, in_flight: int, curve: Sequence[CurvePoint]) -> None:
        """Keep in run.json how many canvases were in flight on a device, and the curve that decided it."""
        measured = {"in_flight": in_flight, "curve": [[point.canvases, round(point.seconds, 6)] for point in curve]}
        self.info = {**self.info, "canvases": {**self.canvases, device: measured}}
        self.folder.put(RUN, sealed_info(self.info))

    def note_model(self, checksum: str) -> None:
        """Keep in run.json which checkpoint the first worker found, where this machine could not say it."""
        self.info = {**self.info, "model": {**self.info.get("model", {}), "checksum": checksum}}
        self.folder.put(RUN, sealed_info(self.info))

    @property
    def canvases(self) -> dict[str, dict[str, Any]]:
        """By device: what `note_canvases` kept."""
        noted: dict[str, dict[str, Any]] = self.info.get("canvases", {})
        return noted

    @property
    def path(self) -> str:
        return self.folder.path

    @property
    def fingerprint(self) -> str:
        return str(self.info["fingerprint"])

    @cached_property
    def spec(self) -> JobSpec:
        return JobSpec.from_public(self.info["spec"])

    @cached_property
    def plan(self) -> Plan:
        """The plan the run was made with; OutputError when it is not that any more."""
        try:
            data = self.folder.get(PLAN)
        except OSError as error:
            raise of_os_error(error, f"{self.folder.at(PLAN)}: cannot be read", "Restore it.") from error
        if hashlib.sha256(data).hexdigest() != self.info["plan_sha256"]:
            raise OutputError(f"{self.folder.at(PLAN)}: was changed after the run was made. Restore it from a copy.")
        # In this thread alone: one of Arrow's that still holds our bytes when Python ends aborts the process.
        return Plan.from_table(pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False))

    @cached_property
    def schemas(self) -> Schemas:
        return schemas(self.spec, self.plan.schema)

    @property
    def succeeded(self) -> bool:
        """Whether the run was finalised: everything is committed and verify held."""
        return self.folder.exists(SUCCESS)

    def ledger(self, proof: bool = False) -> Ledger:
        """What is done, and what is left. OutputError for a record that cannot be trusted.

        proof: read each record itself, and no copy of it.
        """
        try:
            if proof:
                records = [read_commit(self.folder, self.fingerprint, name) for name in list_records(self.folder)]
            else:
                records, self._loose = read_records(self.folder, self.fingerprint)
        except OSError as error:
            what = f"{self.folder.at(COMMITS)}: the commit records cannot be read"
            raise of_os_error(error, what, "Check their permissions.") from error
        return Ledger.of(self.plan.shards, records)

    def commits(self) -> list[Commit]:
        """The records that count, in the order of the plan."""
        return self.ledger().counted

    def commit(self, commit: Commit, ledger: Ledger | None = None) -> bool:
        """Publish what one attempt came to. True also for the very same record again; False when other attempts at its
        rows were first.

        ledger: what the caller knows of; it learns what is there afterwards. Raises RunFailed when the attempt that
        lost wrote other tokens than the one that stands.
        """
        known = [] if ledger is None else ledger.of_shard(commit.shard)
        if commit in known:
            return True
        if ledger is not None and not ledger.accepts(commit):
            self._lose(commit, ledger.rivals(commit))
            return False
        with losing_nothing(self.path, f"the commit record of shard {commit.shard}"):
            won = put_commit(self.folder, self.fingerprint, commit)
        standing = commit if won else read_commit(self.folder, self.fingerprint, commit.name)
        if ledger is not None:
            ledger.add(standing)
            self._loose += 1
            self._compact(ledger)
        if not won:
            self._lose(commit, [standing])
        return won

    def _compact(self, ledger: Ledger) -> None:
        """Copy the records into one file when many are in none: each 1,000, or each tenth where there are more."""
        if self._loose >= COMPACT_EVERY and self._loose >= ledger.records // 10:
            with suppress(OSError):  # a copy that is not there costs some seconds, and nothing else
                compact(self.folder, self.fingerprint, ledger.known)
            self._loose = 0

    def forget_copies(self) -> None:
        """Believe nothing but the records themselves from now on: the proof has failed."""
        with suppress(OSError):
            forget(self.folder)

    def take_back(self, records: Iterable[str]) -> None:
        """Remove these commit records: what they were about has to be done anew, and the run is not complete."""
        with losing_nothing(self.path, "the commit records"):
            self.folder.delete(SUCCESS)
            self.forget_copies()
            for name in records:
                self.folder.delete(name)

    def gone(self, ledger: Ledger) -> list[str]:
        """Files that the records name and that are not there."""
        named = [file.name for file in (*ledger.data, *ledger.quarantine)]
        there = {name for where in ("data", "quarantine") for name in self.folder.list(where)}
        return [name for name in named if name not in there]

    def _lose(self, lost: Commit, rivals: Iterable[Commit]) -> None:
        for standing in rivals:
            refuse_other_tokens(self.folder, self.spec.output.format, lost, standing)

    def note_attempts(self, tries: Mapping[Key, Tries]) -> None:
        """Keep what went wrong with shards for the next submit."""
        with losing_nothing(self.path, ATTEMPTS):
            self.folder.put(ATTEMPTS, attempts.to_json(tries, self.fingerprint))

    def attempts(self, shards: Sequence[Shard]) -> dict[Key, Tries]:
        """What `note_attempts` kept; nothing, and an event, where it cannot be trusted."""
        try:
            return attempts.from_json(self.folder.get(ATTEMPTS), self.fingerprint, shards)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            self.event("attempts_ignored", reason=f"{self.folder.at(ATTEMPTS)}: {error}")
            return {}

    def event(self, kind: str, **fields: Any) -> None:
        """One line in events.jsonl, for people, without the job's secrets. Nothing is ever decided by it."""
        self.events_of(kind, [fields])

    def events_of(self, kind: str, every: Iterable[Mapping[str, Any]]) -> None:
        """The same for several events of a kind, in one go: a store takes its time for each."""
        if lines := event_lines(kind, every, self.spec.hide):
            with losing_nothing(self.path, "an event"):
                self.folder.append(EVENTS, lines)

    def events(self) -> list[dict[str, Any]]:
        """What happened, oldest first; a line that a crash cut short is left out."""
        return read_events(self.folder.log(EVENTS))

    def reopen(self) -> None:
        """Before more is committed to a finished run: no _SUCCESS until it is finalised again."""
        with losing_nothing(self.path, SUCCESS):
            self.folder.delete(SUCCESS)
            self.folder.delete(ATTEMPTS)
            self._remove_lost(self.ledger(proof=True))

    def _remove_lost(self, ledger: Ledger) -> None:
        """Records that do not count: their names may be needed."""
        for commit in ledger.lost:
            self.folder.delete(commit.name)

    def finalise(self) -> None:
        """Remove what does not count and write _SUCCESS: now data/ is the dataset. The caller has verified."""
        ledger = self.ledger(proof=True)
        if not ledger.complete:
            left = list(dict.fromkeys(shard.index for shard, _ in ledger.outstanding()))
            raise RunFailed(f"{self.path}: {len(left)} shards are not committed, first {left[0]}. Submit again.")
        named = {file.name for file in (*ledger.data, *ledger.quarantine)}
        with losing_nothing(self.path, SUCCESS):
            self._remove_lost(ledger)
            for where in ("data", "quarantine"):
                for name in self.folder.list(where):
                    if is_part(name) and name not in named:
                        self.folder.delete(name)
            for where in ("data", "quarantine", OURS, COMMITS, COMPACT, LOGS):
                for name in self.folder.partials(where):
                    self.folder.delete(name)
            self._compact(ledger)
            done = {"fingerprint": self.fingerprint, "ok": ledger.tally.ok, "quarantined": ledger.tally.quarantined}
            self.folder.put(SUCCESS, (json.dumps(done) + "\n").encode())
