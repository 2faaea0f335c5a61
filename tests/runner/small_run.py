"""Runs made without an engine: the rows a worker would write, committed as the driver would."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from dgbatch.records import Completion
from dgbatch.runner import source
from dgbatch.runner.accept import Rules
from dgbatch.runner.commits import COMMITS, Commit, record_name
from dgbatch.runner.plan import Shard, make_plan
from dgbatch.runner.prompts import noise_key
from dgbatch.runner.run_folder import Run
from dgbatch.runner.sink import OutputRow, QuarantinedRow, counts, write_shard
from dgbatch.runner.spec import JobSpec, fingerprint


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
) -> Commit:
    """The files of one attempt at a shard, and the commit that would make them real.

    seeds: of rows that do not take the job's.
    """
    rows, quarantined = [], []
    rules = Rules(run.spec.accept)
    for row_id, row in source.rows(shard, run.spec.input, list(run.schemas.input_columns)):
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
