"""One process at a time works on a run; a lock left behind is taken over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dgbatch.errors import OutputError, RunLocked
from dgbatch.runner.layout import LOCK
from dgbatch.runner.storage import local_lock
from dgbatch.runner.storage import lock as lock_module
from dgbatch.runner.storage.local_folder import LocalFolder
from dgbatch.runner.storage.lock import Owner, lock, owner


def leave_behind(path: Path, left: Owner, age_s: float = 0.0) -> None:
    """A lock whose owner did not release it."""
    LocalFolder(path).put(LOCK, json.dumps(asdict(left)).encode())
    freshened = os.stat(path / LOCK).st_mtime - age_s
    os.utime(path / LOCK, (freshened, freshened))


@contextmanager
def another_process(code: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *args], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


HOLD = """
import sys
from dgbatch.runner.storage.lock import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_seen_while_it_is_held_and_gone_after(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with lock(str(run)) as held:
        seen = owner(str(run))
        assert seen == held.owner and seen.pid == os.getpid()
        assert not held.lost
        (run / "_dgbatch/run.json").touch()
    assert owner(str(run)) is None
    assert not (run / LOCK).exists()


def test_a_second_process_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    with another_process(HOLD, str(tmp_path)) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        said = rf"another process works on this run: pid {other.pid} on "
        with pytest.raises(RunLocked, match=said) as refused, lock(str(tmp_path)):
            pytest.fail("two owners")
        assert refused.value.exit_code == 5
        other.kill()
        other.wait()
        with lock(str(tmp_path)) as held:
            assert held.owner.pid == os.getpid()


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    with lock(str(tmp_path)), pytest.raises(RunLocked), lock(str(tmp_path)):
        pytest.fail("two owners")


def test_a_reused_pid_does_not_keep_a_lock(tmp_path: Path) -> None:
    leave_behind(tmp_path, replace(Owner.me(), started="another boot:1"))
    assert owner(str(tmp_path)) is None
    with lock(str(tmp_path)) as held:
        assert held.owner.started != "another boot:1"


def test_a_lock_of_another_host_is_kept_while_it_is_fresh(tmp_path: Path) -> None:
    elsewhere = replace(Owner.me(), host="elsewhere", pid=1)
    leave_behind(tmp_path, elsewhere, age_s=30)
    assert owner(str(tmp_path)) == elsewhere
    with pytest.raises(RunLocked, match="pid 1 on elsewhere"), lock(str(tmp_path)):
        pytest.fail("two owners")


def test_a_lock_nobody_freshened_is_taken_over(tmp_path: Path) -> None:
    leave_behind(tmp_path, replace(Owner.me(), host="elsewhere", pid=1), age_s=61)
    assert owner(str(tmp_path)) is None
    with lock(str(tmp_path)) as held:
        assert owner(str(tmp_path)) == held.owner


def test_a_lock_file_that_says_nothing_is_nobodys(tmp_path: Path) -> None:
    LocalFolder(tmp_path).put(LOCK, b"{")
    with lock(str(tmp_path)) as held:
        assert owner(str(tmp_path)) == held.owner


def test_a_process_of_another_user_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", denied)
    assert not Owner.me().is_gone


def test_the_heartbeat_keeps_the_lock_fresh_and_sees_that_it_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.01)
    beaten = threading.Event()
    utime = os.utime

    def heard(path: object, *args: object) -> None:
        utime(path, *args)  # type: ignore[call-overload]
        if str(path).endswith(LOCK):
            beaten.set()

    monkeypatch.setattr(os, "utime", heard)
    with lock(str(tmp_path)) as held:
        assert beaten.wait(10)
        thief = replace(Owner.me(), key="thief")
        with local_lock._guard(held.folder):
            held.folder.put(LOCK, json.dumps(asdict(thief)).encode())
        held._heartbeat.join(10)
        assert held.lost
    assert owner(str(tmp_path)) == thief  # a lost lock is not released


def test_a_disk_that_is_away_for_a_moment_does_not_end_the_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.01)
    utime, seen = os.utime, []
    back = threading.Event()

    def away_once(path: object, *args: object) -> None:
        if str(path).endswith(LOCK):
            seen.append(path)
            if len(seen) == 1:
                raise OSError("away")
            back.set()
        utime(path, *args)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "utime", away_once)
    with lock(str(tmp_path)) as held:
        assert back.wait(10)
        assert not held.lost


def test_of_many_who_find_a_stale_lock_exactly_one_takes_it(tmp_path: Path) -> None:
    leave_behind(tmp_path, replace(Owner.me(), started="gone"))
    won, start = [], threading.Barrier(8)

    def take() -> None:
        start.wait()
        with suppress(RunLocked):
            won.append(lock_module.acquire(LocalFolder(tmp_path)))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    won[0].release()


def test_a_lock_from_which_no_run_came_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), lock(str(tmp_path / "run")):
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_of_the_user_stays(tmp_path: Path) -> None:
    with lock(str(tmp_path)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_else_is_not_locked(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OutputError, match=r"somebody else: thesis\.txt"), lock(str(tmp_path)):
        pytest.fail("locked")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written: Not a directory"), lock(str(tmp_path / "file" / "run")):
        pytest.fail("locked")


def test_without_proc_a_process_is_known_by_its_pid_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path, *args: object, **kwargs: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert Owner.me().started == "" and not Owner.me().is_gone


def test_lock_from_the_future_is_as_old_as_it_is_early(tmp_path: Path) -> None:
    """The clock went back by an hour while its owner, of another host, was dead already."""
    for early_s, held in ((3600.0, False), (10.0, True)):
        run = tmp_path / str(early_s)
        leave_behind(run, replace(Owner.me(), host="another", key="k"), age_s=-early_s)
        assert (owner(str(run)) is not None) is held
        if held:
            with pytest.raises(RunLocked), lock(str(run)):
                pass
        else:
            with lock(str(run)):
                pass
