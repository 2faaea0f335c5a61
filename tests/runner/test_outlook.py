"""What plan says of the run that is there is what submit would make of it."""

from __future__ import annotations

from dgbatch.runner.outlook import outlook
from dgbatch.runner.plan import make_plan
from tests.runner.conftest import make_job, prompts
from tests.runner.small_run import commit_all, new_run

__all__ = ["make_job"]


def test_complete_run_that_lost_a_file_is_refused(make_job):
    spec = make_job(prompts(8), "input.id=id", "workers.shard_rows=4")
    run = commit_all(new_run(spec))
    run.finalise()
    assert outlook(spec, make_plan(spec)).state == "complete"
    first, second = run.folder.list("data")
    run.folder.delete(first)
    found = outlook(spec, make_plan(spec))
    assert (found.state, found.done) == ("refused", 8)
    assert found.changed == (f"it was complete, and files of it are gone: {first}; dgbatch verify says what to do",)
    run.folder.delete(second)
    assert outlook(spec, make_plan(spec)).changed[0].count(f"{first}, and 1 more;") == 1
