"""The files by which Prometheus finds drivers: there while the driver is, and never of one that is dead."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dgbatch.errors import OutputError
from dgbatch.runner.metering.targets import VARIABLE, Target, replace_whole, targets_folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "targets"))
    return tmp_path / "targets"


def test_the_folder_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert targets_folder() == Path("/home/me/.local/state/dgbatch/targets")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert targets_folder() == Path("/state/dgbatch/targets")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # the standard says: not valid
    assert targets_folder() == Path("/home/me/.local/state/dgbatch/targets")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # a user without a home
    with pytest.raises(OutputError, match="you have no home folder"):
        targets_folder()
    monkeypatch.setenv(VARIABLE, "/mine")
    assert targets_folder() == Path("/mine")


def test_a_file_names_the_driver_and_goes_with_it(folder: Path) -> None:
    target = Target("demo", "127.0.0.1:9123")
    assert [path.name for path in folder.iterdir()] == [f"demo-{os.getpid()}.json"]
    assert json.loads(target.path.read_text()) == [{"targets": ["127.0.0.1:9123"], "labels": {"job": "demo"}}]
    target.remove()
    target.remove()
    assert list(folder.iterdir()) == []


def test_files_of_dead_drivers_go_with_the_next_one_and_nobody_elses(folder: Path) -> None:
    folder.mkdir()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name in (f"demo-{gone.pid}.json", "mine.json", f"other-{os.getppid()}.json"):
        (folder / name).write_text("[]")
    Target("demo", "x:1")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [f"demo-{os.getpid()}.json", "mine.json", f"other-{os.getppid()}.json"]
    )


def test_files_of_other_machines_stay_in_a_folder_that_many_share(folder: Path) -> None:
    folder.mkdir()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    hosts = ("203.0.113.7", "[2001:db8::7]", "127.0.0.1", "[::1]", socket.gethostname())
    files = {host: folder / f"job{number}-{gone.pid}.json" for number, host in enumerate(hosts)}
    for host, path in files.items():
        path.write_text(json.dumps([{"targets": [f"{host}:9464"], "labels": {"job": "x"}}]))
    Target("demo", "x:1")
    assert [host for host in hosts if files[host].exists()] in (
        ["203.0.113.7", "[2001:db8::7]"],
        ["203.0.113.7", "[2001:db8::7]", "[::1]"],  # a machine without IPv6 is not reached there
    )


def test_a_file_that_is_replaced_is_never_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.prom"
    replace_whole(path, b"old\n")

    def fails(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        replace_whole(path, b"new\n")
    assert path.read_bytes() == b"old\n"
    assert [found.name for found in tmp_path.iterdir()] == ["x.prom"]
