"""A run that is almost done: records on disk as its driver left them, so that going on with it can be timed."""

from __future__ import annotations

from pathlib import Path

from dgbatch.runner.commits import COMMITS, Commit, FileRecord, part_name
from dgbatch.runner.compaction import compact
from dgbatch.runner.fingerprint import fingerprint
from dgbatch.runner.plan import Plan, Shard, make_plan
from dgbatch.runner.run_folder import Run
from dgbatch.runner.spec import JobSpec, load_job
from dgbatch.runner.sums import BOUNDS, Histogram, Sums

LEFT_ONE_IN = 100  # shards


def write_records(job: str) -> tuple[int, int]:
    """Make the job's run with each hundredth shard missing; its shards, and those that are done."""
    spec = load_job(job)
    plan = make_plan(spec)
    run = half_done(spec, plan, "instant")
    ledger = run.ledger()
    compact(run.folder, run.fingerprint, ledger.known)
    return len(plan.shards), ledger.tally.shards


def half_done(spec: JobSpec, plan: Plan, model_checksum: str) -> Run:
    """The run of a new folder in which each hundredth shard is missing, each record by itself.

    The records are real. The data files are not there: nobody reads them before the last shard is committed.
    """
    run = Run.create(spec.output.path, spec.public(), plan, fingerprint(spec, plan), {}, {"checksum": model_checksum})
    Path(run.path, COMMITS).mkdir()
    for shard in plan.shards:
        if shard.index % LEFT_ONE_IN:
            commit = _commit(shard, shard.selected * plan.samples, spec.output.format)
            Path(run.path, commit.name).write_bytes(commit.to_json(run.fingerprint))  # no fsync: it takes minutes
    return run


def _commit(shard: Shard, rows: int, fmt: str) -> Commit:
    attempt = f"{shard.index:08x}"
    spread = [shard.index % 60 + place / 7 for place in range(20)]  # most buckets are in use, as in a real run
    histograms = (Histogram.of(bounds, spread) for bounds in BOUNDS.values())
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
        sums=Sums(rows, 0, (), *histograms),
    )
