"""Quarantined rows once more: into the same run, each row still there exactly once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgbatch.errors import InputError, JobError, OutputError, RunCancelled, RunFailed
from dgbatch.runner import catalog, export
from dgbatch.runner import retry as module
from dgbatch.runner import submit as steps
from dgbatch.runner.again import Leftover
from dgbatch.runner.progress import Progress
from dgbatch.runner.retry import Retried, quarantine
from dgbatch.runner.run_folder import Run
from dgbatch.runner.status import status_of
from dgbatch.runner.submit import Submitted
from dgbatch.runner.verify import verify
from tests.fake_engine import PATH, fake_job
from tests.local_ray import local_ray

__all__ = ["local_ray"]


def submit(job: str, *overrides: str) -> Submitted:
    return steps.submit(job, overrides, engine=PATH)


def retry(done: Submitted, *codes: str, overrides: tuple[str, ...] = ()) -> Retried:
    return module.retry(done.run.path, codes, overrides, engine=PATH)


def plain(run: Run, kind: str) -> list[dict]:
    """What a plain glob over data/ or quarantine/ finds."""
    tables = [pq.read_table(path) for path in sorted(Path(run.path, kind).glob("*.parquet"))]
    return sorted((row for table in tables for row in table.to_pylist()), key=lambda row: (row["id"], row["sample"]))


def records(run: Run) -> list[str]:
    return sorted(path.name for path in Path(run.path, "_dgbatch/commits").iterdir())


@pytest.fixture
def mended(tmp_path: Path) -> Callable[[], None]:
    """Makes rows whose prompt is `bad(...)` come through from now on."""
    return (tmp_path / "mended").touch


def bad(tmp_path: Path, order: str = "!reject") -> str:
    return f"{order} !without={tmp_path / 'mended'}"


pytestmark = pytest.mark.usefixtures("local_ray")


def test_rows_that_come_through_now_move_from_quarantine_into_data(tmp_path, mended):
    prompts = [f"prompt {i}" if i % 5 else bad(tmp_path) for i in range(20)]
    done = submit(fake_job(tmp_path, prompts))
    before = {row["id"]: row for row in plain(done.run, "data")}
    assert (done.exit_code, len(before)) == (3, 16)
    mended()
    again = retry(done)
    assert (again.tried, again.mended, again.status.exit_code) == (4, 4, 0)
    assert again.verification.holds
    after = {row["id"]: row for row in plain(done.run, "data")}
    assert {name: after[name] for name in before} == before
    assert sorted(after) == [f"r{i:04d}" for i in range(20)]
    assert [row["attempt"] for name, row in sorted(after.items()) if name not in before] == [2, 2, 2, 2]
    assert plain(done.run, "quarantine") == []
    assert records(done.run) == ["000000.json", "000000.r1.json", "000001.json", "000001.r1.json", "000002.json"]
    assert done.run.succeeded


def test_what_fails_again_stays_with_one_attempt_more_and_round_follows_round(tmp_path, mended):
    prompts = [bad(tmp_path), "fine", "!reject", None]
    done = submit(fake_job(tmp_path, prompts, retry={"max_failed_ratio": 1.0}))
    again = retry(done)
    assert (again.tried, again.mended, again.status.exit_code) == (3, 0, 3)
    assert [(row["id"], row["attempts"]) for row in plain(done.run, "quarantine")] == [
        ("r0000", 2),
        ("r0002", 2),
        ("r0003", 2),
    ]
    mended()
    again = retry(done)
    assert (again.tried, again.mended) == (3, 1)
    assert [(row["id"], row["attempt"]) for row in plain(done.run, "data")] == [("r0000", 3), ("r0001", 1)]
    assert [(row["id"], row["error_code"], row["attempts"]) for row in plain(done.run, "quarantine")] == [
        ("r0002", "prompt_too_long", 3),
        ("r0003", "null_prompt", 3),
    ]
    assert records(done.run) == ["000000.json", "000000.r1.json", "000000.r2.json"]
    assert len(list(Path(done.run.path, "quarantine").iterdir())) == 1


def test_everybody_counts_right_after_a_retry(tmp_path, mended):
    prompts = [f"prompt {i}" if i % 3 else bad(tmp_path) for i in range(12)] + ["!reject"]
    job = fake_job(tmp_path, prompts, generation={"samples": 2}, output={"duckdb": str(tmp_path / "run.duckdb")})
    done = submit(job, "retry.max_failed_ratio=1")
    mended()
    run = retry(done).run
    assert (status_of(run).tally.ok, status_of(run).tally.quarantined, status_of(run).tally.shards) == (24, 2, 2)
    found = verify(run)
    assert (found.holds, found.ok, found.quarantined) == (True, 24, 2)
    counts = "select count(*), count(distinct (id, sample)) from "
    for table, expected in (("completions", (24, 24)), ("quarantine", (2, 2))):
        assert tuple(row[0] for row in catalog.sql(run, counts + table).to_pydict().values()) == expected
    answer = catalog.sql(run, "select sum(ok) as ok, sum(quarantined) as lost, bool_and(committed) as done from shards")
    assert answer.to_pylist() == [{"ok": 24, "lost": 2, "done": True}]
    assert export.export(run, str(tmp_path / "all.parquet"), "parquet") == 24
    assert sorted(pq.read_table(tmp_path / "all.parquet")["id"].to_pylist()) == sorted(
        [f"r{i:04d}" for i in range(12)] * 2
    )
    assert submit(job, "retry.max_failed_ratio=1").was_complete


def test_only_rows_of_the_code_that_was_asked_for_are_run(tmp_path, mended):
    done = submit(fake_job(tmp_path, [bad(tmp_path), None, "fine"], retry={"max_failed_ratio": 1.0}))
    null_row = plain(done.run, "quarantine")[1]
    mended()
    again = retry(done, "prompt_too_long")
    assert (again.tried, again.mended) == (1, 1)
    assert plain(done.run, "quarantine") == [null_row]
    with pytest.raises(OutputError, match=r"--code prompt_too_long: no row .* It holds: null_prompt \(1\)\."):
        retry(done, "prompt_too_long")


def test_progress_of_a_retry_is_about_the_rows_that_it_runs(tmp_path, mended):
    slow = bad(tmp_path) + " !steps=6"
    prompts = [slow if i % 4 == 0 else None if i % 4 == 1 else "quick !steps=1" for i in range(24)]
    done = submit(fake_job(tmp_path, prompts, {"step_s": 0.2}, retry={"max_failed_ratio": 1.0}))
    mended()
    seen: list[Progress] = []
    module.retry(done.run.path, ["prompt_too_long"], on_progress=seen.append, engine=PATH)
    at_work = [each for each in seen if each.state == "in_progress"]
    assert {(each.expected, each.shards) for each in at_work} == {(6, 3)}
    assert {each.rows for each in at_work} <= set(range(7)) and {each.shards_done for each in at_work} > {0}
    assert all(each.ok == 2 * each.shards_done <= each.rows for each in at_work)


def test_samples_are_retried_one_by_one(tmp_path, mended):
    """Of a row's samples only those in quarantine are run: the others would be doubles."""
    lost = [
        {"id": "a", "sample": 1, "error_code": "x", "error_message": "", "attempts": 2},
        {"id": "a", "sample": 0, "error_code": "y", "error_message": "m", "attempts": 1},
        {"id": "b", "sample": 0, "error_code": "x", "error_message": "", "attempts": 1},
    ]
    leftover = Leftover(lost, ["x"])
    assert (leftover.rows, leftover.samples) == (2, 2)
    assert leftover.due("a") == {1: 2} and leftover.due("a") == {}
    (kept,) = leftover.kept("a", {"prompt": "p"})
    assert (kept.id, kept.sample, kept.error_code, kept.attempts, kept.row) == ("a", 0, "y", 1, {"prompt": "p"})
    assert leftover.strangers == ["b"]


def test_a_run_with_nothing_in_quarantine_is_left_as_it_is(tmp_path):
    done = submit(fake_job(tmp_path, ["a", "b"]))
    success = Path(done.run.path, "_SUCCESS").stat()
    again = retry(done)
    assert (again.tried, again.verification, again.status.exit_code) == (0, None, 0)
    assert Path(done.run.path, "_SUCCESS").stat() == success


def test_row_that_killed_its_worker_is_tried_again_and_found_again(tmp_path, mended):
    prompts = [bad(tmp_path, "!die"), "a", "!die", "b", None]
    done = submit(fake_job(tmp_path, prompts, retry={"shard_attempts": 1, "max_failed_ratio": 0.6}))
    assert [row["error_code"] for row in plain(done.run, "quarantine")] == [
        "worker_killed",
        "worker_killed",
        "null_prompt",
    ]
    mended()
    again = retry(done)
    assert (again.tried, again.mended) == (3, 1)
    assert [row["id"] for row in plain(done.run, "data")] == ["r0000", "r0001", "r0003"]
    assert [(row["id"], row["error_code"]) for row in plain(done.run, "quarantine")] == [
        ("r0002", "worker_killed"),
        ("r0004", "null_prompt"),
    ]


def test_retry_cut_short_between_two_shards_leaves_a_run_that_is_whole(tmp_path, mended, monkeypatch):
    prompts = [bad(tmp_path) if i in (0, 8) else f"prompt {i}" for i in range(16)]
    job = fake_job(tmp_path, prompts)
    done = submit(job)
    mended()

    def half(*arguments, **options):
        kept = dict(list(arguments[-1].items())[:1])
        run_job(*arguments[:-1], kept, **options)
        raise KeyboardInterrupt

    run_job = module.run_job
    with monkeypatch.context() as patch:
        patch.setattr(module, "run_job", half)
        with pytest.raises(RunCancelled, match="interrupted"):
            retry(done)
    assert not done.run.succeeded
    assert verify(done.run).holds
    assert (status_of(done.run).tally.ok, status_of(done.run).tally.quarantined) == (15, 1)
    completed = submit(job)
    assert (completed.exit_code, completed.status.tally.ok, completed.run.succeeded) == (3, 15, True)
    assert [row["id"] for row in plain(done.run, "quarantine")] == ["r0008"]
    again = retry(done)
    assert (again.tried, again.mended, again.status.exit_code) == (1, 1, 0)
    assert [row["id"] for row in plain(done.run, "data")] == [f"r{i:04d}" for i in range(16)]


def test_what_a_retry_may_change_and_what_not(tmp_path, mended):
    done = submit(fake_job(tmp_path, [bad(tmp_path), "fine"], retry={"max_failed_ratio": 1.0}))
    with pytest.raises(JobError, match=r"--set generation\.seed: 0 -> 7: this decides rows or tokens"):
        retry(done, overrides=("generation.seed=7",))
    mended()
    assert retry(done, overrides=("workers.canvases=1", "retry.stall_timeout_s=30")).mended == 1


def test_run_that_is_not_whole_is_submitted_first(tmp_path):
    done = submit(fake_job(tmp_path, ["a", "!reject"], retry={"max_failed_ratio": 1.0}))
    done.run.folder.delete("_dgbatch/commits/000000.json")
    with pytest.raises(RunFailed, match=r"0 of 1 shards are committed\. Submit the job again"):
        retry(done)


def test_changed_input_checkpoint_or_quarantine_is_refused_and_the_run_stays_complete(tmp_path):
    done = submit(fake_job(tmp_path, ["a", "!reject"], retry={"max_failed_ratio": 1.0}))
    settings = tmp_path / "checkpoint" / "fake.json"
    settings.write_text('{"checksum": "other"}')
    with pytest.raises(OutputError, match="started with a checkpoint of checksum fake, and worker w0 found other"):
        retry(done)
    assert done.run.succeeded  # nothing was changed
    settings.write_text("{}")
    (file,) = Path(done.run.path, "quarantine").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(OutputError, match="its bytes are not those that were written"):
        retry(done)
    file.write_bytes(whole)
    prompts = pq.read_table(tmp_path / "prompts.parquet")
    pq.write_table(pa.concat_tables([prompts, prompts]), tmp_path / "prompts.parquet")
    with pytest.raises(InputError, match="changed after planning"):
        retry(done)


def test_dry_look_says_what_is_there_by_code(tmp_path):
    done = submit(fake_job(tmp_path, ["!reject", None, "!reject", "a"], retry={"max_failed_ratio": 1.0}))
    left = quarantine(done.run, ["null_prompt"])
    assert (left.codes, left.samples) == ({"prompt_too_long": 2, "null_prompt": 1}, 1)
    assert done.run.succeeded
