"""Resuming: what is done already is not done again, not even the plan; what has changed is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgbatch.errors import CheckpointError, OutputError, RunFailed
from dgbatch.runner import submit as steps
from dgbatch.runner.compaction import COMPACT, compact
from dgbatch.runner.layout import PLAN
from dgbatch.runner.spec import JobSpec, load_job
from dgbatch.runner.submit import finish, plan_of
from tests.fake_engine import fake_job
from tests.runner.conftest import MakeJob
from tests.runner.small_run import commit_all, new_run

Rows = Callable[[int], pa.Table]


@pytest.fixture
def job(make_job: MakeJob, some_rows: Rows) -> JobSpec:
    return make_job(some_rows(10), "input.id=id", "workers.shard_rows=4")


def forbidden(spec: JobSpec) -> None:
    raise AssertionError("the input was cut anew")


def test_a_run_of_the_same_job_and_input_keeps_its_plan_without_reading_the_ids(job, monkeypatch):
    run = new_run(job)
    monkeypatch.setattr(steps, "make_plan", forbidden)
    assert plan_of(job.output.path, job) == run.plan


def test_a_changed_job_or_input_is_planned_anew(job, make_job, some_rows):
    run = new_run(job)
    other = make_job(None, "input.id=id", "workers.shard_rows=5")
    assert [shard.rows for shard in plan_of(job.output.path, other).shards] == [5, 5]
    pq.write_table(some_rows(11), Path(job.input.path))
    assert plan_of(job.output.path, job).rows == 11
    assert run.plan.rows == 10


def test_where_no_run_is_the_input_is_planned(job):
    assert plan_of(job.output.path, job).rows == 10
    assert not Path(job.output.path, PLAN).exists()


def test_when_the_proof_fails_no_copy_of_a_record_is_believed_any_more(job):
    run = commit_all(new_run(job))
    compact(run.folder, run.fingerprint, run.commits())
    file = run.commits()[0].data
    assert file is not None
    run.folder.delete(file.name)
    with pytest.raises(RunFailed, match="does not hold"):
        finish(run, job)
    assert run.folder.list(COMPACT) == []


def test_complete_run_is_complete_only_with_the_checkpoint_that_made_it(tmp_path, monkeypatch):
    job = fake_job(tmp_path, ["a", "b"])
    commit_all(new_run(load_job(job))).finalise()
    model = {"checksum": "m"}  # as new_run wrote down
    monkeypatch.setattr(steps, "describe_model", lambda *_: dict(model))
    assert steps.submit(job).was_complete
    model["checksum"] = "another"
    with pytest.raises(
        OutputError, match=r"model files of .*\n    - checksum m\n    \+ checksum another\n\nPut it back.*--new-run"
    ):
        steps.submit(job)

    def gone(*_):
        raise CheckpointError("config.json is gone")

    monkeypatch.setattr(steps, "describe_model", gone)
    assert steps.submit(job).was_complete
