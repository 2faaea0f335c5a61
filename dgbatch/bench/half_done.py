"""A run that is almost done: records on disk as its driver left them, so that going on with it can be timed."""

from __future__ import annotations

from pathlib import Path

from dgbatch.runner.commits import COMMITS, Commit, FileRecord, part_name
from dgbatch.runner.compaction import compact
from dgbatch.runner.fingerprint import fingerprint
from dgbatch.runner.plan import Plan, Shard, make_plan
from dgbatch.runner.run_folder import Run
from dgbatch.runner.spec import JobSpec, load_job

LEFT_ONE_IN = 100  # shards


def write_records(job: str) -> tuple[int, int]:
    """Make the job's run with each hundredth shard missing; its shards, and those that are done.

    The records are real, and so are the copies that a driver keeps of many. The data files are not there: nobody reads
    them before the last shard is committed.
    """
    spec = load_job(job)
    plan = make_plan(spec)
    run = Run.create(spec.output.path, spec.public(), plan, fingerprint(spec, plan), {}, {"checksum": "instant"})
    done = [shard for shard in plan.shards if shard.index % LEFT_ONE_IN]
    _write(run, spec, plan, done)
    return len(plan.shards), len(done)


def _write(run: Run, spec: JobSpec, plan: Plan, shards: list[Shard]) -> None:
    Path(run.path, COMMITS).mkdir()
    commits = [_commit(shard, shard.selected * plan.samples, spec.output.format) for shard in shards]
    for commit in commits:
        Path(run.path, commit.name).write_bytes(commit.to_json(run.fingerprint))  # no fsync: it takes minutes
    compact(run.folder, run.fingerprint, commits)


def _commit(shard: Shard, rows: int, fmt: str) -> Commit:
    attempt = f"{shard.index:08x}"
    return Commit(
        shard=shard.index,
        attempt=attempt,
        data=FileRecord(part_name("data", shard.index, attempt, fmt), rows, 20_000, "0" * 64),
        quarantine=None,
        ok=rows,
        quarantined=0,
        accepted=0,
        prompt_tokens=12 * rows,
        tokens=4 * rows,
        canvases=rows,
        denoise_steps=2 * rows,
        seconds=0.5,
        worker="w0",
        committed_at="2026-11-21T04:00:00.000+00:00",
    )
