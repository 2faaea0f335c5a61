"""Copies of commit records: quick to read, and never believed where the records themselves say otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from dgbatch.errors import OutputError
from dgbatch.runner import compaction, run_folder
from dgbatch.runner.commits import Commit, read_commit
from dgbatch.runner.compaction import COMPACT, compact, forget, read_records
from dgbatch.runner.run_folder import Run
from dgbatch.runner.storage.local_folder import LocalFolder as Folder
from dgbatch.runner.verify import verify
from tests.runner.conftest import MakeJob
from tests.runner.small_run import Killed, Reaper, commit_all, new_run, write_attempt
from tests.runner.test_ledger import commit, retried, with_sums

Rows = Callable[[int], pa.Table]
RUN = "fingerprint"
LEFT, RIGHT = commit(0, 0, 4), commit(0, 4, 8)
COMMITS = [
    with_sums(LEFT),
    RIGHT,
    retried(LEFT, RIGHT, quarantined=1),
    replace(commit(1), data=None, quarantine=None),
    commit(2),
]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    for each in COMMITS:
        made.put(each.name, each.to_json(RUN))
    return made


@pytest.fixture
def run(make_job: MakeJob, some_rows: Rows) -> Run:
    return new_run(make_job(some_rows(12), "input.id=id", "workers.shard_rows=1"))


def test_copies_say_what_the_records_say(folder: Folder) -> None:
    assert read_records(folder, RUN) == (COMMITS, 5)
    compact(folder, RUN, COMMITS)
    assert read_records(folder, RUN) == (COMMITS, 0)


def test_a_record_that_is_in_no_copy_is_read_itself(folder: Folder) -> None:
    compact(folder, RUN, COMMITS[:3])
    found, loose = read_records(folder, RUN)
    assert (set(found), loose) == (set(COMMITS), 2)


def test_a_record_that_was_removed_is_not_believed_from_its_copy(folder: Folder) -> None:
    compact(folder, RUN, COMMITS)
    folder.delete(COMMITS[4].name)
    assert read_records(folder, RUN) == (COMMITS[:4], 0)


def test_a_record_that_was_put_anew_is_read_anew(folder: Folder) -> None:
    compact(folder, RUN, COMMITS)
    folder.delete(COMMITS[4].name)
    another = replace(COMMITS[4], worker="w1")  # as many bytes as before
    assert folder.put_if_absent(another.name, another.to_json(RUN))
    assert read_records(folder, RUN) == ([*COMMITS[:4], another], 1)


def test_a_record_that_was_damaged_is_an_error_all_the_same(folder: Folder) -> None:
    compact(folder, RUN, COMMITS)
    folder.put(COMMITS[4].name, b"{}")
    with pytest.raises(OutputError, match="cannot be trusted"):
        read_records(folder, RUN)


def test_copies_that_are_damaged_or_of_another_run_are_passed_over(folder: Folder) -> None:
    compact(folder, "another", COMMITS)
    assert read_records(folder, RUN) == (COMMITS, 5)
    compact(folder, RUN, COMMITS)
    (name,) = folder.list(COMPACT)
    folder.put(name, folder.get(name)[:-1])
    folder.put(f"{COMPACT}/notes.txt", b"of somebody else")
    assert read_records(folder, RUN) == (COMMITS, 5)


def test_copies_with_other_columns_are_passed_over(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a later version of dgbatch."""
    with monkeypatch.context() as later:
        later.setattr(compaction, "_SCHEMA", compaction._SCHEMA.append(pa.field("more", pa.int64())))
        later.setattr(compaction, "_NAMES", compaction._NAMES)
        later.setattr(pa, "table", lambda columns, schema: _table({**columns, "more": [1] * 5}, schema))
        compact(folder, RUN, COMMITS)
    assert folder.list(COMPACT)
    assert read_records(folder, RUN) == (COMMITS, 5)


_table = pa.table


def test_newer_copies_take_the_place_of_older_ones(folder: Folder) -> None:
    compact(folder, RUN, COMMITS[:2])
    compact(folder, RUN, COMMITS)
    assert len(folder.list(COMPACT)) == 1
    forget(folder)
    assert folder.list(COMPACT) == [] and read_records(folder, RUN) == (COMMITS, 5)


def test_a_kill_at_any_point_of_it_changes_nothing_for_readers(tmp_path: Path) -> None:
    kills = 0
    for point in range(60):
        folder = Folder(tmp_path / str(point))
        for each in COMMITS:
            folder.put(each.name, each.to_json(RUN))
        compact(folder, RUN, COMMITS[:2])
        with pytest.MonkeyPatch.context() as monkeypatch:
            reaper = Reaper(monkeypatch, point)
            try:
                compact(folder, RUN, COMMITS)
            except Killed:
                kills += 1
        assert set(read_records(folder, RUN)[0]) == set(COMMITS)
        if not reaper.killed:
            break
    assert kills > 3


def test_many_commits_are_copied_now_and_then_and_at_the_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "COMPACT_EVERY", 4)
    ledger, copied = run.ledger(), list[int]()
    for shard in run.plan.shards:
        run.commit(write_attempt(run, shard), ledger)
        copied.append(len(run.plan.shards) and shard.index + 1 - read_records(run.folder, run.fingerprint)[1])
    assert copied == [0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12]
    run.finalise()
    assert read_records(run.folder, run.fingerprint)[1] == 0
    assert verify(run).holds


def test_a_small_run_keeps_no_copies(run: Run) -> None:
    commit_all(run).finalise()
    assert not run.folder.at(COMPACT).exists()


def test_the_proof_reads_the_records_and_not_their_copies(run: Run) -> None:
    commit_all(run)
    ledger = run.ledger()
    lies = [replace(each, ok=5) for each in ledger.counted]
    compact(run.folder, run.fingerprint, lies)
    assert run.ledger().tally.ok == 60
    assert (run.ledger(proof=True).tally.ok, verify(run).ok, verify(run).holds) == (12, 12, True)
    run.finalise()
    assert b'"ok": 12' in run.folder.get("_SUCCESS")
    run.forget_copies()
    assert run.ledger().tally.ok == 12


def test_every_field_of_a_commit_is_copied(folder: Folder) -> None:
    """A field that is forgotten here would be lost on the way."""
    assert set(Commit.__dataclass_fields__) == set(compaction._NAMES)
    compact(folder, RUN, COMMITS)
    for each in read_records(folder, RUN)[0]:
        assert each == read_commit(folder, RUN, each.name)
