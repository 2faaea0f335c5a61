"""Runs of any size with a story: three workers, one lost, a night between two submits. Made of arrays.

Commit records are written without fsync, which takes minutes for thousands.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dgbatch.runner.commits import COMMITS, Commit, FileRecord, part_name
from dgbatch.runner.fingerprint import fingerprint
from dgbatch.runner.layout import EVENTS
from dgbatch.runner.plan import Shard, make_plan
from dgbatch.runner.run_folder import Run
from dgbatch.runner.sink import stored_schema, to_bytes
from dgbatch.runner.spec import JobSpec, load_job

START = datetime(2026, 11, 20, 18, 0, tzinfo=timezone.utc)
NIGHT_S = 12 * 3600.0
PHASES = ("load", "tokenize", "prefill", "denoise", "sample", "wait_input", "wait_output")
SHARES = (0.05, 0.01, 0.11, 0.66, 0.07, 0.03, 0.02)
WORKERS = ("w0", "w1", "w2")
CODES = ("prompt_too_long", "template_error", "worker_killed")


def made_up_job(folder: Path, rows: int = 2_000, shard_rows: int = 50, **overrides: str) -> JobSpec:
    """A job on as many short prompts; overrides as `--set` has them, with two underscores for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "id": pa.array([f"q{n:07d}" for n in range(rows)]),
            "prompt": pa.array([f"What is {n} + 1?" for n in range(rows)]),
            "answer": pa.array([str(n + 1) for n in range(rows)]),
        }
    )
    pq.write_table(table, folder / "in.parquet", row_group_size=100_000)
    job = {
        "version": 1,
        "name": "made-up",
        "model": {"checkpoint": "demo"},
        "input": {"path": "in.parquet", "id": "id"},
        "prompt": {"template": "{{ prompt }}"},
        "output": {"path": "out"},
        "workers": {"shard_rows": shard_rows},
    }
    (folder / "job.yaml").write_text(json.dumps(job))
    return load_job(folder / "job.yaml", [f"{name.replace('__', '.')}={value}" for name, value in overrides.items()])


def made_up_run(
    spec: JobSpec,
    lost_one_in: int = 100,
    bad_text: str = "",
    done: Callable[[Shard], bool] = lambda shard: True,
    events: bool = True,
    seed: int = 7,
) -> Run:
    """A run whose shards are committed, each hundredth row in quarantine.

    bad_text: instead of each text and each error message. done: which shards are committed.
    """
    plan = make_plan(spec)
    run = Run.create(
        spec.output.path,
        spec.public(),
        plan,
        fingerprint(spec, plan),
        {"python": "3.11.7", "dgbatch": "0.1.0", "ray": "2.60.0", "torch": "2.13.0"},
        {"checksum": "5f0c" * 16},
    )
    Path(run.path, COMMITS).mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    shards = [shard for shard in plan.shards if done(shard)]
    commits = []
    for shard, ended, seconds, worker in _story(shards, random):
        commits.append(_write(run, shard, ended, seconds, worker, random, lost_one_in, bad_text))
        Path(run.path, commits[-1].name).write_bytes(commits[-1].to_json(run.fingerprint))
    if events:
        _tell(run, commits)
    return run


def _story(shards: list[Shard], random: np.random.Generator) -> Iterator[tuple[Shard, float, float, str]]:
    """(shard, when it was committed, seconds of work, worker): the later half of them the next morning."""
    free = dict.fromkeys(WORKERS, 9.0)
    for position, shard in enumerate(shards):
        if position == len(shards) // 2:
            free = dict.fromkeys(WORKERS, max(free.values()) + NIGHT_S)
        crew = [name for name in WORKERS if name != "w2" or not 0.3 < position / len(shards) < 0.4]
        worker = min(crew, key=free.__getitem__)
        seconds = float(shard.rows * random.uniform(0.03, 0.05) * (1.0 + 0.3 * (worker == "w1")))
        free[worker] += seconds
        yield shard, free[worker], seconds, worker


def _write(
    run: Run,
    shard: Shard,
    ended: float,
    seconds: float,
    worker: str,
    random: np.random.Generator,
    lost_one_in: int,
    bad_text: str,
) -> Commit:
    schemas, fmt, samples = run.schemas, run.spec.output.format, run.plan.samples
    numbers = np.repeat(np.arange(shard.first_row, shard.first_row + shard.rows), samples)
    numbers += 100_000 * shard.row_group
    sample = np.tile(np.arange(samples, dtype=np.int32), shard.rows)
    lost = numbers % lost_one_in == lost_one_in - 1 if lost_one_in else np.zeros(len(numbers), bool)
    columns = _columns(numbers[~lost], sample[~lost], random, bad_text)
    attempt = f"{shard.index:08x}"
    names = stored_schema(schemas.data, "arrow").names
    data = pa.table([pa.array(columns[name], schemas.data.field(name).type) for name in names], schema=schemas.data)
    message = bad_text or "9,004 tokens; the context has room for 8,192"
    quarantine = pa.table(
        {
            "prompt": [bad_text or f"What is {n} + 1?" for n in numbers[lost]],
            "answer": [str(n + 1) for n in numbers[lost]],
            "id": [f"q{n:07d}" for n in numbers[lost]],
            "sample": sample[lost],
            "error_code": [CODES[(n // lost_one_in) % 7 // 3] for n in numbers[lost]],
            "error_message": [message] * int(lost.sum()),
            "attempts": np.ones(int(lost.sum()), np.int32),
        }
    )
    quarantine = quarantine.select(schemas.quarantine.names).cast(schemas.quarantine)
    return Commit(
        shard=shard.index,
        attempt=attempt,
        data=_put(run, part_name("data", shard.index, attempt, fmt), data) if data.num_rows else None,
        quarantine=_put(run, part_name("quarantine", shard.index, attempt, fmt), quarantine) if lost.any() else None,
        ok=data.num_rows,
        quarantined=int(lost.sum()),
        accepted=int(columns["accepted"].sum()) if "accepted" in names else 0,
        prompt_tokens=int(columns["prompt_tokens"].sum()),
        tokens=int(columns["tokens"].sum()),
        canvases=int(columns["canvases"].sum()),
        denoise_steps=int(columns["denoise_steps"].sum()),
        seconds=round(seconds, 3),
        worker=worker,
        committed_at=_at(ended),
    )


def _columns(numbers: np.ndarray, sample: np.ndarray, random: np.random.Generator, bad_text: str) -> dict[str, Any]:
    """What an engine might make of these rows; every name that a data file may have."""
    rows = len(numbers)
    tokens = np.minimum(1 + random.lognormal(4.6, 0.9, rows).astype(np.int32), 1024)
    canvases = -(-tokens // 256)
    steps = canvases * np.clip(random.normal(14, 4, rows).round().astype(np.int32), 3, 48)
    right = random.random(rows) < 0.93
    finish = np.where(tokens >= 1024, "length", np.where(random.random(rows) < 0.02, "stop", "end_of_turn"))
    return {
        "id": [f"q{n:07d}" for n in numbers],
        "sample": sample,
        "text": [bad_text or str(n + 1) for n in numbers],
        "thinking": [None] * rows,
        "finish_reason": finish.tolist(),
        "prompt_tokens": 20 + random.lognormal(4, 0.5, rows).astype(np.int32),
        "tokens": tokens,
        "canvases": canvases,
        "denoise_steps": steps,
        "token_ids": [[1]] * rows,
        "noise_key": np.zeros(rows, np.uint64),
        "attempt": np.ones(rows, np.int32),
        "revised_tokens": (tokens * 0.04).astype(np.int32),
        "mean_entropy": random.random(rows).astype(np.float32) / 50,
        "queue_s": np.full(rows, 0.1, np.float32),
        "prefill_s": random.random(rows).astype(np.float32) / 10,
        "denoise_s": (steps * 0.03).astype(np.float32),
        "accepted": right,
        "rules": [{"equals_answer": bool(passed)} for passed in right],
        "prompt": [f"What is {n} + 1?" for n in numbers],
        "answer": [str(n + 1) for n in numbers],
    }


def _put(run: Run, name: str, table: pa.Table) -> FileRecord:
    data = to_bytes(table, run.spec.output.format)
    path = Path(run.path, name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return FileRecord(name, table.num_rows, len(data), hashlib.sha256(data).hexdigest())


def _tell(run: Run, commits: list[Commit]) -> None:
    """The events of two submits; in the first one w2 is lost, and the driver with all workers at its end."""
    ends = [datetime.fromisoformat(commit.committed_at) for commit in commits]
    half = len(commits) // 2
    evening, morning = ends[:half], ends[half:]
    told: list[tuple[datetime, dict[str, Any]]] = []
    command = "dgbatch submit job.yaml --set workers.count=3"

    def tell(at: datetime, kind: str, **fields: Any) -> None:
        told.append((at, {"kind": kind, **fields}))

    for part, started in ((evening, START), (morning, (evening or [START])[-1] + timedelta(seconds=NIGHT_S))):
        if not part:
            continue
        tell(started, "started", command=command)
        for name in WORKERS:
            ready = started + timedelta(seconds=8)
            tell(ready, "worker_ready", worker=name, where=f"gpu-node-1:{name}", device="NVIDIA H200", canvases=8)
        if part is evening and len(part) > 9:
            at = part[int(len(part) * 0.6)]
            tell(at, "worker_lost", worker="w2", reason="worker w2: its node <gone-7> went away", shards=[7])
            tell(at + timedelta(seconds=2), "worker_ready", worker="w2", where="gpu-node-2:w2", device="NVIDIA H200")
    if morning:
        end = max(morning) + timedelta(seconds=1)
        for number, name in enumerate(WORKERS):
            seconds = (end - min(morning)).total_seconds()
            shares = np.array(SHARES) * np.array([1, 1, 1, 1 - 0.2 * number, 1, 1, 1 + 5 * number])
            tell(
                end, "worker_stats", worker=name, device="NVIDIA H200", where=f"gpu-node-1:{name}", canvases=8,
                seconds=dict(zip(PHASES, (shares * seconds).round(3).tolist(), strict=True)), passes=9, tiles=70,
                tokens=1000, denoise_steps=500, shared_tokens=120, peak_bytes=70 * 2**30, roofline=0.71,
            )  # fmt: skip
        if len(commits) == len(run.plan.shards):
            tell(end, "finalizing")
            tell(end + timedelta(seconds=1), "completed")
    lines = [json.dumps({"at": _stamp(at), **fields}) + "\n" for at, fields in sorted(told, key=lambda each: each[0])]
    Path(run.path, EVENTS).write_text("".join(lines))


def _at(seconds: float) -> str:
    return _stamp(START + timedelta(seconds=seconds))


def _stamp(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds")
