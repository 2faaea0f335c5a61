from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from dgbatch.runner.logs.spool import Spool, forget_stale


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A machine's /tmp of the test's own."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))


def age(folder: Path) -> None:
    for path in folder.iterdir():
        os.utime(path, (0, 0))


def test_what_a_dead_process_left_is_found_once_its_lock_is_free():
    ours, theirs = Spool("run", "s.w1.b"), Spool("run", "s.w0.a")
    theirs.raw(1).write_bytes(b"\0\0\0last words\n")
    assert (list(ours.left()), ours.others()) == ([], ["s.w0.a"])
    os.close(theirs._lock)  # as the system does when a process dies
    (left,) = ours.left()
    assert (left.stem, left.raw) == ("s.w0.a", (theirs.raw(1),))
    left.remove()
    assert ours.others() == []
    ours.close()
    assert not ours.folder.exists()


def test_stale_spools_of_other_runs_go_and_those_of_the_living_stay():
    ours, dead, alive, fresh = (Spool(run, "s.w0.a") for run in ("ours", "dead", "alive", "fresh"))
    for each in (dead, fresh):
        os.close(each._lock)
    for each in (ours, dead, alive):
        age(each.folder)
    forget_stale(ours.folder)
    assert [each.folder.exists() for each in (ours, dead, alive, fresh)] == [True, False, True, True]


def test_folder_that_others_can_read_is_not_used(tmp_path):
    (tmp_path / f"dgbatch-logs-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(PermissionError, match="not a private folder"):
        Spool("run", "s.w0.a")


def test_process_whose_lock_was_taken_for_that_of_a_dead_one_gets_another(monkeypatch):
    ours, lock = Spool("run", "s.w1.b"), fcntl.flock

    def late(handle: int, how: int) -> None:
        """Between opening the file and holding it, somebody finds it free and removes it."""
        monkeypatch.setattr(fcntl, "flock", lock)
        (left,) = ours.left()
        left.remove()
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    theirs = Spool("run", "s.w0.a")
    assert (ours.others(), list(ours.left())) == (["s.w0.a"], [])
    os.close(theirs._lock)
    assert [left.stem for left in ours.left()] == ["s.w0.a"]
