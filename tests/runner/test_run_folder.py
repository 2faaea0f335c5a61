"""A run folder is made whole, opened as it was made, and never made over somebody's files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest

from dgbatch.errors import OutputError, RunFailed, RunNotFound
from dgbatch.runner.commits import list_records
from dgbatch.runner.fingerprint import fingerprint
from dgbatch.runner.layout import EVENTS, LIVE, PLAN, RUN, SUCCESS, refuse_foreign
from dgbatch.runner.plan import make_plan
from dgbatch.runner.run_folder import Run
from dgbatch.runner.spec import JobSpec
from dgbatch.runner.storage.local_folder import LocalFolder as Folder
from dgbatch.runner.verify import verify
from tests.runner.conftest import MakeJob
from tests.runner.small_run import Killed, Reaper, commit_all, new_run, read_json, write_attempt

Rows = Callable[[int], pa.Table]


@pytest.fixture
def job(make_job: MakeJob, some_rows: Rows) -> JobSpec:
    return make_job(some_rows(10), "input.id=id", "workers.shard_rows=4", "generation.seed=7")


def test_a_new_run_says_what_it_is(job: JobSpec) -> None:
    info = read_json(Path(new_run(job).path, RUN))
    plan = make_plan(job)
    assert info["fingerprint"] == fingerprint(job, plan)
    assert info["spec"] == job.public()
    assert (info["name"], info["seed"], info["rows"], info["expected"], info["shards"]) == ("test", 7, 10, 10, 3)
    assert (info["versions"], info["model"]) == ({"dgbatch": "0"}, {"checksum": "m"})
    assert info["created_at"].startswith("20")


def test_an_opened_run_is_the_one_that_was_made(job: JobSpec) -> None:
    made = new_run(job)
    opened = Run.open(made.path)
    assert (opened.spec, opened.plan, opened.fingerprint) == (job, make_plan(job), made.fingerprint)
    assert opened.commits() == [] and opened.events() == [] and not opened.succeeded


def test_opening_where_no_run_is_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match=r"no run here \(_dgbatch/run\.json is missing\)"):
        Run.open(str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(RunNotFound):
        Run.open(str(tmp_path / "file"))
    assert RunNotFound.exit_code == 2


def test_an_unreadable_run_is_an_error_of_the_folder(tmp_path: Path) -> None:
    Path(tmp_path, RUN).mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot be read"):
        Run.open(str(tmp_path))


def test_creating_a_run_again_opens_it(job: JobSpec) -> None:
    first = new_run(job)
    before = Path(first.path, RUN).read_bytes()
    assert new_run(job).info == first.info
    assert Path(first.path, RUN).read_bytes() == before


def test_another_jobs_run_is_refused(job: JobSpec) -> None:
    first = new_run(job)
    plan = make_plan(job)
    with pytest.raises(OutputError, match=r"holds another run, 'test' of .*submit with --new-run"):
        Run.create(first.path, job.public(), plan, "another fingerprint", {}, {})


@pytest.mark.parametrize("name", ["thesis.txt", "data/part-000000-abcd.parquet", "_dgbatch/commits/000000.json"])
def test_a_folder_with_foreign_files_is_refused_and_left_alone(job: JobSpec, name: str) -> None:
    foreign = Path(job.output.path, name)
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    with pytest.raises(OutputError, match=r"holds files of somebody else: .*Choose an empty or a new folder"):
        new_run(job)
    assert [path for path in Path(job.output.path).rglob("*") if path.is_file()] == [foreign]


def test_a_live_file_that_came_late_into_a_withdrawn_run_is_nobodys(tmp_path: Path, job: JobSpec) -> None:
    """A slow store may put it when the run that it was about has been taken back."""
    Folder(job.output.path).put(LIVE, b"{}")
    assert new_run(job).commits() == []


def test_many_foreign_files_are_not_all_listed(tmp_path: Path) -> None:
    for name in "abcde":
        (tmp_path / name).touch()
    with pytest.raises(OutputError, match=r"somebody else: a, b, c, \.\.\.\. Choose"):
        refuse_foreign(str(tmp_path))


def test_a_file_in_place_of_the_folder_is_refused(job: JobSpec) -> None:
    Path(job.output.path).write_text("a file")
    with pytest.raises(OutputError, match=r"is a file\. Name a folder"):
        new_run(job)
    assert Path(job.output.path).read_text() == "a file"


def test_a_folder_that_cannot_be_written_is_refused(job: JobSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "mkdir", denied)
    with pytest.raises(OutputError, match=r"output\.path: .*out cannot be written: Permission denied"):
        new_run(job)


def test_a_kill_at_any_point_of_create_is_mended_by_the_next_one(make_job: MakeJob, some_rows: Rows) -> None:
    kills = 0
    for point in range(60):
        job = make_job(some_rows(10), f"output.path=out{point}")
        with pytest.MonkeyPatch.context() as monkeypatch:
            reaper = Reaper(monkeypatch, point)
            try:
                new_run(job)
            except Killed:
                kills += 1
        run = new_run(job)
        assert Run.open(job.output.path).info == run.info
        assert run.plan == make_plan(job)
        commit_all(run).finalise()
        found = {str(path.relative_to(run.path)) for path in Path(run.path).rglob("*") if path.is_file()}
        assert {name for name in found if "data/" not in name} == {RUN, PLAN, SUCCESS, "_dgbatch/commits/000000.json"}
        if not reaper.killed:
            break
    assert kills > 10


def test_a_changed_run_or_plan_is_not_believed(job: JobSpec) -> None:
    run = new_run(job)
    raw = Path(run.path, RUN).read_text()
    Path(run.path, RUN).write_text(raw.replace('"seed": 7', '"seed": 8'))
    with pytest.raises(OutputError, match=r"run\.json: was changed after the run was made"):
        Run.open(run.path)
    Path(run.path, RUN).write_text(raw)
    Path(run.path, PLAN).write_bytes(b"PAR1")
    with pytest.raises(OutputError, match=r"plan\.parquet: was changed"):
        _ = Run.open(run.path).plan
    Path(run.path, PLAN).unlink()
    with pytest.raises(OutputError, match=r"plan\.parquet: cannot be read: No such file"):
        _ = Run.open(run.path).plan


def test_the_first_commit_of_a_shard_stays(job: JobSpec) -> None:
    run = new_run(job)
    first, second = (write_attempt(run, run.plan.shards[1]) for _ in range(2))
    assert run.commit(first) and run.commit(first)
    assert not run.commit(second)
    assert run.commits() == [first] == Run.open(run.path).commits()


def test_a_commit_to_a_full_disk_says_that_nothing_is_lost(job: JobSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(job)
    commit = write_attempt(run, run.plan.shards[0])

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunFailed, match=r"record of shard 0 cannot be written: No space left .* submit again"):
            run.commit(commit)
    assert run.commits() == [] and run.commit(commit)


def test_events_are_kept_in_order_and_a_torn_line_is_left_out(job: JobSpec) -> None:
    run = new_run(job)
    run.event("started", workers=2)
    with open(run.folder.at(EVENTS), "ab") as file:
        file.write(b'{"at": ')
    run.event("finished", path=Path("x"))
    assert [(event["kind"], event.get("workers"), event.get("path")) for event in run.events()] == [
        ("started", 2, None),
        ("finished", None, "x"),
    ]


def test_finalise_refuses_while_shards_are_open(job: JobSpec) -> None:
    run = new_run(job)
    commit_all(run, shards=run.plan.shards[:1])
    with pytest.raises(RunFailed, match=r"2 shards are not committed, first 1\. Submit again"):
        run.finalise()
    assert not run.succeeded


def test_finalise_leaves_what_the_commits_name_and_what_is_not_ours(job: JobSpec) -> None:
    run = new_run(job)
    lost = write_attempt(run, run.plan.shards[0], bad=lambda row_id: row_id == "r1")
    commit_all(run, bad=lambda row_id: row_id == "r2")
    run.folder.put("data/.part-000000-aaaa.parquet.77.partial", b"half")
    run.folder.put("_dgbatch/commits/.000000.json.77.partial", b"half")
    run.folder.put("data/notes.txt", b"of the user")
    run.finalise()
    named = {file.name for commit in run.commits() for file in commit.files}
    assert {*run.folder.list("data"), *run.folder.list("quarantine")} == {*named, "data/notes.txt"}
    assert not {file.name for file in lost.files} & named
    assert run.folder.partials("data") == [] and run.folder.partials("_dgbatch/commits") == []
    assert run.succeeded
    assert read_json(Path(run.path, SUCCESS)) == {"fingerprint": run.fingerprint, "ok": 9, "quarantined": 1}


def test_two_drivers_that_raced_leave_each_row_once(job: JobSpec) -> None:
    """Neither knows of the other: pieces of shard 0 overlap, shard 1 is there whole and as a piece."""
    run = new_run(job)
    zero, one, two = run.plan.shards
    pieces = [(zero, (0, 2)), (zero, (1, 4)), (zero, (2, 4)), (one, None), (one, (0, 3)), (two, None)]
    for shard, span in pieces:
        assert run.commit(write_attempt(run, shard, bad=lambda row_id: row_id in ("r1", "r5"), span=span))
    found = verify(run)
    assert (found.holds, found.ok, found.quarantined) == (True, 8, 2)
    run.finalise()
    assert [name.rpartition("/")[2] for name in list_records(run.folder)] == [
        "000000-000000-000002.json",
        "000000-000002-000004.json",
        "000001.json",
        "000002.json",
    ]
    tables = [pa.dataset.dataset(str(Path(run.path, kind)), format="parquet") for kind in ("data", "quarantine")]
    ids = [name for table in tables for name in table.to_table(columns=["id"])["id"].to_pylist()]
    assert sorted(ids) == sorted(f"r{n}" for n in range(10))
    assert verify(run).holds


def test_a_plain_glob_of_a_finished_run_is_the_dataset(job: JobSpec) -> None:
    run = new_run(job)
    write_attempt(run, run.plan.shards[0])
    commit_all(run).finalise()
    table = pa.dataset.dataset(str(Path(run.path, "data")), format="parquet").to_table()
    assert sorted(table["id"].to_pylist()) == sorted(f"r{n}" for n in range(10))


def test_secrets_are_not_written(
    make_job: MakeJob, some_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DGBATCH_TEST_SECRET", str(tmp_path / "s3cret"))
    run = new_run(make_job(some_rows(3), "output.path=${DGBATCH_TEST_SECRET}"))
    assert b"s3cret" not in run.folder.get(RUN)
    assert Run.open(run.path).spec.output.path == str(tmp_path / "s3cret")


def test_two_runs_of_one_job_hold_the_same_rows(job: JobSpec, tmp_path: Path) -> None:
    runs = [
        new_run(job.model_copy(update={"output": job.output.model_copy(update={"path": str(tmp_path / name)})}))
        for name in "ab"
    ]
    first, second = ([commit.data.sha256 for commit in commit_all(run).commits() if commit.data] for run in runs)
    assert first == second and len(first) == 3


def test_records_of_many_shards_are_read_in_order(make_job: MakeJob, some_rows: Rows) -> None:
    run = new_run(make_job(some_rows(30), "workers.shard_rows=1"))
    commit_all(run, shards=reversed(run.plan.shards))
    assert [commit.shard for commit in run.commits()] == list(range(30))
    assert len(list_records(run.folder)) == 30
    moved = replace(run.commits()[0], shard=3)
    assert not run.commit(replace(moved, data=None))


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EIO, RunFailed), (errno.ENOSPC, RunFailed), (errno.EACCES, OutputError)]
)
def test_store_that_is_away_for_a_while_is_no_mistake_of_the_job(make_job, some_rows, monkeypatch, number, kind):
    """What mends itself leaves with 4, submit again; what people must mend with 2."""
    run = new_run(make_job(some_rows(3)))

    def refused(folder: Folder, name: str) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Folder, "get", refused)
    with pytest.raises(kind, match=r"run\.json: cannot be read: .*"):
        Run.open(run.path)
    run.__dict__.pop("plan", None)  # read again
    with pytest.raises(kind, match=r"plan\.parquet: cannot be read"):
        _ = run.plan
