from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dgbatch.errors import StoreFailed
from dgbatch.runner.fault_injection import processes
from dgbatch.runner.fault_injection.faults import (
    DISK_FULL,
    STORE_ERRORS,
    VARIABLE,
    FaultyFolder,
    Switches,
    driver_pid,
    kill_switch,
    open_folder,
    workers_at_work,
)
from dgbatch.runner.storage.local_folder import LocalFolder


@pytest.fixture
def switches(tmp_path: Path) -> Switches:
    return Switches(tmp_path / "switches")


@pytest.fixture
def folder(tmp_path: Path, switches: Switches) -> FaultyFolder:
    return FaultyFolder(LocalFolder(tmp_path / "run"), switches)


def test_folder_has_no_faults_unless_the_environment_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert type(open_folder(tmp_path)) is LocalFolder
    monkeypatch.setenv(VARIABLE, str(tmp_path / "switches"))
    assert type(open_folder(tmp_path)) is FaultyFolder


def test_folder_with_all_switches_off_is_a_folder(folder, switches):
    assert folder.put_if_absent("data/a", b"1")
    assert not folder.put_if_absent("data/a", b"2")
    folder.put("b", b"3")
    folder.append("b", b"4")
    assert (folder.get("data/a"), folder.get("b"), folder.list("data")) == (b"1", b"3\n4\n", ["data/a"])
    assert switches.log() == []


@pytest.mark.parametrize("verb", ["put_if_absent", "put", "append"])
def test_full_disk_refuses_every_write_and_says_so_in_the_log(folder, switches, verb):
    folder.put("old", b"1")
    switches.on(DISK_FULL)
    with pytest.raises(OSError, match="No space left") as error:
        getattr(folder, verb)("new", b"2")
    assert error.value.errno == errno.ENOSPC
    assert folder.get("old") == b"1"
    assert not folder.exists("new")
    assert [(line["verb"], line["name"]) for line in switches.log(DISK_FULL)] == [(verb, "new")]
    switches.off(DISK_FULL)
    getattr(folder, verb)("new", b"2")


def test_store_errors_come_at_the_rate_that_was_asked_for(folder, switches, monkeypatch):
    """And are asked again: whoever uses the folder sees none of them."""
    monkeypatch.setattr("time.sleep", lambda pause: None)
    folder.put("a", b"1")
    switches.on(STORE_ERRORS, "0.2")
    assert [folder.get("a") for _ in range(400)] == [b"1"] * 400
    assert len(switches.log(STORE_ERRORS)) in (99, 100)  # one of five requests; where it begins is left to chance


def test_store_that_refuses_everything_is_given_up_after_a_while(folder, switches, monkeypatch):
    monkeypatch.setattr("dgbatch.runner.fault_injection.faults.RETRY_S", 0.0)
    folder.put("a", b"1")
    switches.on(STORE_ERRORS, "1")
    with pytest.raises(StoreFailed, match="/a: the store answered 503"):
        folder.get("a")


def test_of_many_who_take_a_switch_one_has_it(switches):
    switches.on("x")
    assert [switches.take("x") for _ in range(3)] == [True, False, False]


KILLED = """
import sys
from dgbatch.runner.fault_injection.faults import FaultyFolder, Switches
from dgbatch.runner.storage.local_folder import LocalFolder
folder = FaultyFolder(LocalFolder(sys.argv[1]), Switches(sys.argv[2]))
for shard in range(3):
    folder.put_if_absent(f"data/part-{shard}", b"rows")
"""


@pytest.mark.parametrize(("moment", "there"), [("generated", {0}), ("written", {0, 1})])
def test_writer_is_killed_at_the_moment_and_the_shard_that_was_asked_for(tmp_path, switches, moment, there):
    switches.on(kill_switch("worker", moment), "2")
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "run"), str(switches.path)])
    assert process.returncode == -signal.SIGKILL
    assert {file.name for file in (tmp_path / "run" / "data").glob("part-*")} == {f"part-{n}" for n in there}
    assert len(switches.log(kill_switch("worker", moment))) == 1
    assert not switches.is_on(kill_switch("worker", moment))


def test_kill_of_another_process_waits_until_it_is_gone(folder, switches):
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    folder.put("_dgbatch/lock.json", json.dumps({"pid": victim.pid}).encode())
    assert driver_pid(folder) == victim.pid
    switches.on(kill_switch("driver", "written"))
    folder.put_if_absent("data/part-0", b"rows")
    assert not processes.is_alive(victim.pid)
    assert victim.wait() == -signal.SIGKILL
    assert [line["pid"] for line in switches.log()] == [victim.pid]


def test_workers_at_work_are_those_of_the_last_start_that_were_not_lost(folder):
    for event in (
        {"kind": "worker_ready", "worker": "w0", "where": "host:1"},
        {"kind": "started"},
        {"kind": "worker_ready", "worker": "w0", "where": "host:2"},
        {"kind": "worker_ready", "worker": "w1", "where": "host:3"},
        {"kind": "worker_lost", "worker": "w0"},
        {"kind": "worker_ready", "worker": "w2", "where": "host:4"},
        {"kind": "worker_ready", "worker": "w3", "where": "host:5"},
        {"kind": "worker_left", "worker": "w3"},
    ):
        folder.append("_dgbatch/events.jsonl", json.dumps(event).encode())
    folder.append("_dgbatch/events.jsonl", b'{"kind": "worker_re')
    assert list(workers_at_work(folder)) == [("w1", 3), ("w2", 4)]
