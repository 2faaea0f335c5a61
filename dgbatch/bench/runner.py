"""`dgbatch bench runner`: all that is not the model. Millions of short rows through an engine that answers at once, and
through Ray Data.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dgbatch.bench import ray_data, short_rows
from dgbatch.bench.child import TooLong, run_module
from dgbatch.bench.dispatch import DispatchBench, bench_dispatch
from dgbatch.bench.half_done import LEFT_ONE_IN, write_records
from dgbatch.bench.instant import FIRST
from dgbatch.bench.measure import host
from dgbatch.errors import BenchError

OURS, RAY_DATA = "dgbatch", "Ray Data"
SHARD_ROWS = 512  # of our job: what one commit is about
OFTEN, NEVER = f"Ray Data, blocks of {SHARD_ROWS}", "Ray Data, no checkpoints"
LIMIT_S = 3600.0  # for our own side
BYTES_MB = 1 << 20


@dataclass(frozen=True, slots=True)
class RunnerBench:
    """How many rows, and who takes part."""

    rows: int = 1_000_000  # through our runner
    resume_rows: int = 1_000_000  # of a run that is 99 % done
    peer_rows: int = 500_000  # side by side with Ray Data; 0 leaves it out
    peer_limit_s: float = 120.0  # for one run of Ray Data
    batch_rows: int = 4096  # of Ray Data's map_batches
    workers: int = 2
    canvases: int = 1024  # in flight in each worker
    dispatch_workers: int = 1000  # simulated
    dispatch_shards: int = 20_000
    folder: str | None = None  # for all files; None: a temporary one, removed at the end


def bench_runner(asked: RunnerBench, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure, one side after the other. Raises BenchError."""
    circumstances = host() | {"ray": version("ray"), "pyarrow": version("pyarrow")}
    with _folder(asked.folder) as folder:
        told: dict[str, Any] = {"benchmark": "runner", "machine": circumstances, "asked": asdict(asked)}
        told["run"] = whole_run(asked, folder / "whole", tell)
        told["resume"] = resume(asked, folder / "resume", tell)
        theirs = (RAY_DATA, OFTEN) if asked.peer_rows else ()
        told["resume_ray_data"] = [resume_ray_data(asked, folder / "resume" / who, who, tell) for who in theirs]
        told["side_by_side"] = side_by_side(asked, folder / "beside", tell) if asked.peer_rows else []
        tell(f"dispatch: {asked.dispatch_workers:,} simulated workers")
        told["dispatch"] = bench_dispatch(DispatchBench(asked.dispatch_workers, asked.dispatch_shards))
    return {**told, **ratios(told)}


def whole_run(asked: RunnerBench, folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """All rows through plan, Ray, two workers, commits and proof."""
    job = _prepared(asked, folder, asked.rows)
    tell(f"dgbatch: {asked.rows:,} rows")
    told = _submitted(job, folder, until_first_row=False)
    told["rows_per_s"] = told["rows"] / told["work_s"]
    if not told["holds"] or told["rows"] != asked.rows:
        raise BenchError(f"the run made {told['rows']:,} of {asked.rows:,} rows, or its proof failed: {folder}")
    tell(f"  {told['rows_per_s']:,.0f} rows/s, plan {told['plan_s']:.1f} s, verify {told['verify_s']:.1f} s")
    return told


def resume(asked: RunnerBench, folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Seconds from the start of the process to the first row that a run generates which is 99 % done."""
    rows = asked.resume_rows
    job = _prepared(asked, folder, rows)
    tell(f"dgbatch: writing the records of {rows:,} rows, 99 % done")
    shards, done = write_records(str(job))
    begun = time.time()
    told = _submitted(job, folder, until_first_row=True)
    told |= {"rows": rows, "shards": shards, "done": done, "first_row_s": told.pop("first_row_at") - begun}
    tell(f"  first row after {told['first_row_s']:.1f} s, driver at most {told['peak_bytes'] / BYTES_MB:.0f} MB")
    return told


def resume_ray_data(asked: RunnerBench, folder: Path, who: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """The same of Ray Data with checkpoints of the same rows: one per file of the input, or one per shard of ours."""
    rows, often = asked.resume_rows, who == OFTEN
    job = _prepared(asked, folder, rows)
    tell(f"{who}: writing the checkpoints of {rows:,} rows, 99 % done")
    done = ray_data.write_checkpoints(folder / "rows", folder / "checkpoints", SHARD_ROWS, LEFT_ONE_IN, each=often)
    begun, note = time.time(), ""
    try:
        _ray_data(asked, job, folder, block_rows=SHARD_ROWS if often else None, saves=True)
    except TooLong as error:
        note = str(error)
    mark = folder / FIRST
    first_row_s = float(mark.read_text()) - begun if mark.exists() else None
    tell(f"  first row after {first_row_s:.1f} s" if first_row_s else f"  {note}")
    return {
        "who": who, "rows": rows, "done": done, "first_row_s": first_row_s, "limit_s": asked.peer_limit_s, "note": note,
    }  # fmt: skip


def side_by_side(asked: RunnerBench, folder: Path, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """The same rows and the same work per row: ours, and Ray Data with its checkpoints as they come, often, and off."""
    rows = asked.peer_rows
    tell(f"{OURS}: {rows:,} rows, beside Ray Data")
    job = _prepared(asked, folder / OURS, rows)
    ours = _submitted(job, folder / OURS, until_first_row=False)
    found = [_side(OURS, rows, ours["work_s"], ours["shards"])]
    tell(f"  {_speed(found[-1])}")
    for who, block_rows, saves in ((RAY_DATA, None, True), (OFTEN, SHARD_ROWS, True), (NEVER, None, False)):
        tell(f"{who}: {rows:,} rows")
        job = _prepared(asked, folder / who, rows)
        seconds, note = None, ""
        try:
            seconds = _ray_data(asked, job, folder / who, block_rows, saves)
        except TooLong as error:
            note = str(error)
        found.append(_side(who, rows, seconds, len(list(folder.glob(f"{who}/checkpoints/*.parquet"))), note))
        tell(f"  {_speed(found[-1])}")
    return found


def _ray_data(asked: RunnerBench, job: Path, folder: Path, block_rows: int | None, saves: bool) -> float:
    """Seconds of one run. Raises TooLong."""
    task = ray_data.Asked(
        job=str(job),
        input=str(folder / "rows"),
        output=str(folder / "out"),
        checkpoints=str(folder / "checkpoints") if saves else None,
        marks=str(folder),
        cpus=asked.workers,
        batch_rows=min(block_rows or asked.batch_rows, asked.batch_rows),
        block_rows=block_rows,
    )
    return float(run_module(ray_data.__name__, asdict(task), asked.peer_limit_s)["seconds"])


def _side(who: str, rows: int, seconds: float | None, checkpoints: int, note: str = "") -> dict[str, Any]:
    speed = rows / seconds if seconds else None
    return {
        "who": who, "rows": rows, "checkpoints": checkpoints, "seconds": seconds, "rows_per_s": speed, "note": note,
    }  # fmt: skip


def _prepared(asked: RunnerBench, folder: Path, rows: int) -> Path:
    """Input and job file in this folder, which is the checkpoint too: the engine leaves its mark there."""
    short_rows.write(folder / "rows", rows)
    job = short_rows.job(folder / "rows", folder / "run", folder, asked.workers, asked.canvases)
    (folder / "job.yaml").write_text(json.dumps(job), encoding="utf-8")  # JSON is YAML
    return folder / "job.yaml"


def _submitted(job: Path, folder: Path, until_first_row: bool) -> dict[str, Any]:
    task = {"job": str(job), "marks": str(folder), "until_first_row": until_first_row}
    try:
        return run_module("dgbatch.bench.submitted", task, LIMIT_S)
    except TooLong as error:
        raise BenchError(f"dgbatch: {error}") from error


@contextmanager
def _folder(asked: str | None) -> Iterator[Path]:
    if asked is None:
        with tempfile.TemporaryDirectory(prefix="dgbatch-bench-") as made:
            yield Path(made)
        return
    folder = Path(asked)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BenchError(f"--folder {asked}: is there already, and not empty. Name a new one.")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def ratios(told: dict[str, Any]) -> dict[str, Any]:
    """Ours over each of Ray Data's rows/s, and how much sooner a resumed run generates; None where one was not done.

    A resumed run that had generated nothing when its time was up gives a least ratio, under a key of its own.
    """
    ours, *theirs = told["side_by_side"] or [None]
    wait_s = told["resume"]["first_row_s"]
    return {
        "rows_per_s_over": {
            side["who"]: ours["rows_per_s"] / side["rows_per_s"] if side["rows_per_s"] else None for side in theirs
        },
        "resume_sooner_than": {
            side["who"]: side["first_row_s"] / wait_s if side["first_row_s"] else None
            for side in told["resume_ray_data"]
        },
        "resume_sooner_than_at_least": {
            side["who"]: side["limit_s"] / wait_s for side in told["resume_ray_data"] if not side["first_row_s"]
        },
    }


COLUMNS = ("what", "rows", "checkpoints", "seconds", "rows/s")


def table_rows(told: dict[str, Any]) -> list[tuple[str, ...]]:
    """One line per run; the seconds of a resumed one end with its first row."""
    run, resumed = told["run"], told["resume"]
    whole = _side(OURS, run["rows"], run["work_s"], run["shards"])
    lines: list[tuple[str, ...]] = [
        (
            side["who"],
            f"{side['rows']:,}",
            f"{side['checkpoints']:,}",
            f"{side['seconds']:.1f}" if side["seconds"] else side["note"],
            f"{side['rows_per_s']:,.0f}" if side["rows_per_s"] else "-",
        )
        for side in (whole, *told["side_by_side"])
    ]
    lines.append(
        (f"{OURS} resumes", f"{resumed['rows']:,}", f"{resumed['done']:,}", f"{resumed['first_row_s']:.1f}", "-")
    )
    for side in told["resume_ray_data"]:
        seconds = f"{side['first_row_s']:.1f}" if side["first_row_s"] else side["note"]
        lines.append((f"{side['who']} resumes", f"{side['rows']:,}", f"{side['done']:,}", seconds, "-"))
    return lines


def findings(told: dict[str, Any]) -> list[str]:
    """Stages, memory and comparisons in words, a line each."""
    run, resumed = told["run"], told["resume"]
    working = [size for _, rows, size in run["memory"] if rows] or [run["peak_bytes"]]
    dispatch = told["dispatch"]
    decisions = dispatch["decisions"]["all"]
    return [
        f"plan {run['plan_s']:.1f} s, Ray {run['ray_s']:.1f} s, rows {run['work_s']:.1f} s, "
        f"proof {run['verify_s']:.1f} s",
        f"driver: {_mb(working[0])} at the first rows, {_mb(working[-1])} at the last, "
        f"at most {_mb(run['peak_bytes'])}; resumed, at most {_mb(resumed['peak_bytes'])}",
        *(
            f"dgbatch / {who}: {'-' if ratio is None else f'{ratio:.2f}x'} rows/s"
            for who, ratio in told["rows_per_s_over"].items()
        ),
        f"{dispatch['workers']:,} simulated workers: {decisions['calls']:,} decisions, p50 {decisions['p50_ms']:g} ms, "
        f"p99 {decisions['p99_ms']:g} ms, at most {decisions['max_ms']:g} ms",
        *(
            f"first row of a resumed run, {who} / dgbatch: {_sooner(told, who)} seconds"
            for who in told["resume_sooner_than"]
        ),
    ]


def _sooner(told: dict[str, Any], who: str) -> str:
    ratio = told["resume_sooner_than"][who]
    return f"more than {int(told['resume_sooner_than_at_least'][who])}x" if ratio is None else f"{ratio:.1f}x"


def _speed(side: dict[str, Any]) -> str:
    return f"{side['rows_per_s']:,.0f} rows/s" if side["rows_per_s"] else side["note"]


def _mb(size: int) -> str:
    return f"{size / BYTES_MB:.0f} MB"
