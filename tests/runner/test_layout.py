"""What a run that is refused before its first commit leaves: nothing of its own, and all that is somebody else's."""

from __future__ import annotations

from pathlib import Path

from dgbatch.runner.layout import withdraw
from dgbatch.runner.storage.lock import lock
from tests.runner.small_run import new_run, write_attempt


def test_withdrawn_run_leaves_no_folder_though_workers_had_written_rows(make_job, some_rows):
    spec = make_job(some_rows(4), "input.id=id", "workers.shard_rows=2")
    with lock(spec.output.path):
        run = new_run(spec)
        write_attempt(run, run.plan.shards[0], bad=lambda row_id: row_id == "r1")
        run.folder.put("_dgbatch/films/000000.json", b"{}")
        withdraw(run.folder)
    assert not Path(spec.output.path).exists()


def test_withdrawn_run_leaves_what_is_not_its_own(make_job, some_rows):
    spec = make_job(some_rows(4), "input.id=id")
    mine = Path(spec.output.path, "data", "notes.txt")
    with lock(spec.output.path):
        run = new_run(spec)
        write_attempt(run, run.plan.shards[0])
        mine.write_text("keep")
        withdraw(run.folder)
    assert [path.name for path in mine.parent.iterdir()] == ["notes.txt"]
    assert not Path(spec.output.path, "_dgbatch", "run.json").exists()
