"""Runs made without an engine: the rows a worker would write, committed as the driver would."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgbatch.records import Completion
from dgbatch.runner import source
from dgbatch.runner.accept import Rules
from dgbatch.runner.commits import COMMITS, Commit, record_name
from dgbatch.runner.fingerprint import fingerprint
from dgbatch.runner.plan import Shard, make_plan
from dgbatch.runner.prompts import noise_key
from dgbatch.runner.run_folder import Run
from dgbatch.runner.sink import OutputRow, QuarantinedRow, counts, to_bytes, write_shard
from dgbatch.runner.spec import JobSpec
from dgbatch.runner.sums import NOTHING


def completion(row_id: str = "r0", sample: int = 0, seed: int = 0, text: str = "4") -> Completion:
    return Completion(
        id=row_id,
        sample=sample,
        text=text,
        thinking=None,
        finish_reason="end_of_turn",
        token_ids=(*text.encode(), 1),
        prompt_tokens=7,
        canvases=1,
        denoise_steps=3,
        noise_key=noise_key(seed, row_id, sample),
        canvas_steps=(3,),
    )


def new_run(spec: JobSpec) -> Run:
    plan = make_plan(spec)
    return Run.create(
        spec.output.path, spec.public(), plan, fingerprint(spec, plan), {"dgbatch": "0"}, {"checksum": "m"}
    )


def write_attempt(
    run: Run,
    shard: Shard,
    bad: Callable[[str], bool] = lambda row_id: False,
    text: str = "",
    seeds: Mapping[str, int] = MappingProxyType({}),
    span: tuple[int, int] | None = None,
) -> Commit:
    """The files of one attempt at a shard, or at a piece of it, and the commit that would make them real.

    seeds: of rows that do not take the job's.
    """
    rows, quarantined = [], []
    rules = Rules(run.spec.accept)
    selected = list(source.rows(shard, run.spec.input, list(run.schemas.input_columns)))
    for row_id, row in selected if span is None else selected[slice(*span)]:
        for sample in range(run.plan.samples):
            if bad(row_id):
                quarantined.append(QuarantinedRow(row_id, sample, "prompt_too_long", "9 tokens too many", 1, row))
                continue
            seed = seeds.get(row_id, run.spec.generation.seed)
            done = completion(row_id, sample, seed, text or str(row.get("answer", "4")))
            rows.append(OutputRow(done, 1, rules.judge(done.text, row) if rules.names else None, row))
    attempt = uuid.uuid4().hex[:8]
    data, given_up = write_shard(
        run.folder, shard.index, attempt, run.spec.output.format, run.schemas, rows, quarantined
    )
    return Commit(
        shard=shard.index,
        attempt=attempt,
        data=data,
        quarantine=given_up,
        **counts(rows, quarantined),
        seconds=0.5,
        worker="w0",
        committed_at="2026-11-21T04:00:00.000+00:00",
        span=span,
    )


def commit_all(
    run: Run, bad: Callable[[str], bool] = lambda row_id: False, shards: Iterable[Shard] | None = None
) -> Run:
    for shard in run.plan.shards if shards is None else shards:
        assert run.commit(write_attempt(run, shard, bad))
    return run


def record_path(run: Run, index: int) -> Path:
    return run.folder.at(f"{COMMITS}/{record_name(index)}")


def reseal(run: Run, index: int, commit: Commit) -> None:
    """Put a commit in place of another, checksum and all: what no honest process does."""
    record_path(run, index).write_bytes(commit.to_json(run.fingerprint))


def read(run: Run, name: str) -> pa.Table:
    raw = pa.BufferReader(run.folder.get(name))
    return pq.read_table(raw) if name.endswith("parquet") else pa.ipc.open_file(raw).read_all()


def rewrite(run: Run, name: str, table: pa.Table) -> None:
    run.folder.at(name).write_bytes(to_bytes(table, run.spec.output.format))


def forge(run: Run, index: int) -> None:
    """Make a commit agree with its files as they are now: rows, sizes, checksums and counts."""
    commit = run.commits()[index]
    changed: dict[str, Any] = {"sums": NOTHING}
    for kind in ("data", "quarantine"):
        record = getattr(commit, kind)
        if record is not None:
            raw, table = run.folder.get(record.name), read(run, record.name)
            digest = hashlib.sha256(raw).hexdigest()
            changed[kind] = replace(record, rows=table.num_rows, bytes=len(raw), sha256=digest)
            changed["ok" if kind == "data" else "quarantined"] = table.num_rows
            if kind == "data":
                for name in ("prompt_tokens", "tokens", "canvases", "denoise_steps"):
                    changed[name] = sum(table[name].to_pylist())
                changed["accepted"] = sum(table["accepted"].to_pylist())
    reseal(run, index, replace(commit, **changed))


def respell(run: Run, shard: int, row: int, tokens: list[int]) -> None:
    """Other tokens for one row, and a commit record that agrees with them."""
    record = run.commits()[shard].data
    assert record is not None
    table = read(run, record.name)
    ids = table["token_ids"].to_pylist()
    ids[row] = tokens
    position = table.schema.get_field_index("token_ids")
    field = table.schema.field(position)
    rewrite(run, record.name, table.set_column(position, field, pa.array(ids, field.type)))
    forge(run, shard)


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


class Killed(BaseException):
    """Stands for SIGKILL."""


class Reaper:
    """Kills the process at its n-th step on the disk: that step and all later ones, clean-up included, do nothing."""

    STEPS = ("fsync", "link", "replace", "unlink", "mkdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int):
        self.left = at
        self.killed = False
        for name in self.STEPS:
            import os

            monkeypatch.setattr(os, name, self._mortal(getattr(os, name)))

    def _mortal(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                self.killed = True
                raise Killed
            return step(*args, **kwargs)

        return stepping
