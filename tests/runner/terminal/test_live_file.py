from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from dgbatch.runner.layout import LIVE
from dgbatch.runner.progress import Progress
from dgbatch.runner.storage.local_folder import LocalFolder
from dgbatch.runner.terminal.live_file import LiveFile, LiveReader
from tests.runner.test_progress import WORKING

NOW = datetime(2026, 11, 21, 16, 40, tzinfo=timezone.utc)


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    return LocalFolder(tmp_path)


def await_(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def write(folder: LocalFolder, at: datetime, every_s: float = 2.0) -> None:
    folder.put(LIVE, json.dumps({"at": at.isoformat(), "every_s": every_s, **WORKING.to_json()}).encode())


def test_what_a_job_tells_is_passed_on_and_can_be_read_until_it_ends(folder):
    passed: list[Progress] = []
    with LiveFile(folder, passed.append, "http://127.0.0.1:9464/metrics", every_s=0.02) as live:
        assert LiveReader(folder).read() is None
        live(WORKING)
        await_(lambda: folder.exists(LIVE))
        assert LiveReader(folder).read() == replace(WORKING, metrics_url="http://127.0.0.1:9464/metrics")
    assert passed == [WORKING]
    assert not folder.exists(LIVE)


def test_file_goes_when_the_job_fails(folder):
    def fail() -> None:
        with LiveFile(folder, lambda progress: None, every_s=0.02) as live:
            live(WORKING)
            await_(lambda: folder.exists(LIVE))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not folder.exists(LIVE)


def test_job_goes_on_when_it_cannot_be_written(folder, monkeypatch):
    tried = []

    def full(name: str, data: bytes) -> None:
        tried.append(name)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "put", full)
    passed: list[Progress] = []
    with LiveFile(folder, passed.append, every_s=0.01) as live:
        live(WORKING)
        await_(lambda: len(tried) >= 3)
        live(WORKING)
    assert len(passed) == 2
    assert set(tried) == {LIVE}


def test_what_a_dead_driver_left_is_not_believed(folder):
    write(folder, NOW - timedelta(seconds=60))
    assert LiveReader(folder, now=lambda: NOW).read() is None


def test_file_that_stands_still_is_believed_no_longer_than_a_few_writes(folder):
    now = [NOW]
    reader = LiveReader(folder, now=lambda: now[0])
    write(folder, NOW)
    assert reader.read() == WORKING
    now[0] += timedelta(seconds=8)
    assert reader.read() == WORKING
    now[0] += timedelta(seconds=2)
    assert reader.read() is None
    write(folder, now[0])
    assert reader.read() == WORKING


def test_driver_whose_clock_is_an_hour_off_is_believed_once_its_file_changes(folder):
    for off in (timedelta(hours=1), timedelta(hours=-1)):
        reader = LiveReader(folder, now=lambda: NOW)
        write(folder, NOW + off)
        assert reader.read() is None
        write(folder, NOW + off + timedelta(seconds=2))
        assert reader.read() == WORKING


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"rows": {}, "shards": {}}', b'"text"', b"\xff"])
def test_file_of_somebody_else_is_not_believed(folder, data):
    folder.put(LIVE, data)
    assert LiveReader(folder).read() is None


def test_store_is_written_less_often():
    class Store:
        path = "s3://bucket/run"

    assert LiveFile(Store(), lambda progress: None)._every_s > LiveFile(LocalFolder("."), print)._every_s  # type: ignore[arg-type]
