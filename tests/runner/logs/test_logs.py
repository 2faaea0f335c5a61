"""The log of one process: written through, bounded, numbered, never in the way; and how it is read again."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from dgbatch.errors import OptionError
from dgbatch.runner.layout import EVENTS, LOGS
from dgbatch.runner.logs import log_files, log_keeping, process_log
from dgbatch.runner.logs.log_files import LogFiles
from dgbatch.runner.logs.log_keeping import make_room
from dgbatch.runner.logs.log_reader import Follow, Logs, Wanted, event_line, named_workers, opened_at, since
from dgbatch.runner.logs.process_log import LogIds, ProcessLog, driver_log
from dgbatch.runner.storage.folder import open_folder
from tests.runner.small_run import new_run

NOW = datetime(2026, 11, 21, 16, 0, tzinfo=timezone.utc)


@pytest.fixture
def run(make_job, some_rows):
    return new_run(make_job(some_rows(2)))


def ids(run, submit: str = "20261121T163205-3f9c") -> LogIds:
    return LogIds(run.path, run.path, "test", submit, {"hunter2": "${SECRET}"})


def say(run, *messages: str, worker: str = "w0", submit: str = "20261121T163205-3f9c", **more) -> None:
    """As a process of this worker would."""
    log = ProcessLog(ids(run, submit), worker, lambda: [7, 3, 7])
    for message in messages:
        record = logging.LogRecord("lib", more.get("level", logging.INFO), "x.py", 1, message, (), None)
        record.created = more.get("at", 1_800_000_000.0)
        log.handle(record)
    log.close()


def messages(run, **wanted) -> list[str]:
    return [line["message"] for line in Logs(run).lines(Wanted(**wanted))]


def test_line_has_all_ids_and_no_secret(run):
    say(run, "opened hunter2")
    (line,) = Logs(run).lines(Wanted())
    assert {key: line[key] for key in ("at", "level", "worker", "message", "job", "run", "submit", "shards", "n")} == {
        "at": "2027-01-15T08:00:00.000+00:00", "level": "info", "worker": "w0", "message": "opened ${SECRET}",
        "job": "test", "run": run.path, "submit": "20261121T163205-3f9c", "shards": [3, 7], "n": 1,
    }  # fmt: skip
    assert line["pid"] == os.getpid()


def test_line_is_on_the_disk_before_logging_goes_on(run):
    log = ProcessLog(ids(run), "w0").open()
    try:
        logging.getLogger("dgbatch.anything").info("now")
        assert messages(run) == ["now"]
    finally:
        log.close()
    logging.getLogger("dgbatch.anything").error("after the end")
    assert messages(run) == ["now"]


def test_log_leaves_logging_as_it_found_it(run, caplog):
    ours = logging.getLogger("dgbatch")
    before = (ours.level, ours.propagate, list(ours.handlers), list(logging.getLogger().handlers))
    with driver_log(ids(run)):
        ours.info("hunter2")
        logging.getLogger("some.library").warning("of a library")
    assert (ours.level, ours.propagate, list(ours.handlers), list(logging.getLogger().handlers)) == before
    assert messages(run)[1:] == ["${SECRET}", "of a library"]
    assert "hunter2" not in caplog.text


def test_error_of_the_driver_that_nobody_expected_is_kept_with_its_traceback(run):
    with pytest.raises(ZeroDivisionError), driver_log(ids(run)):
        1 / 0  # noqa: B018
    (line,) = Logs(run).lines(Wanted(level="error"))
    assert line["message"] == "ZeroDivisionError: the run has failed" and "1 / 0" in line["trace"]


def test_a_process_keeps_its_first_lines_and_its_last_ones_and_says_how_many_are_missing(run, monkeypatch):
    monkeypatch.setattr(log_files, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(log_files, "KEPT_CHUNKS", 3)
    say(run, *(f"line {n}" for n in range(1, 101)))
    assert len(run.folder.list(LOGS)) == 3
    said = messages(run)
    first, missing, rest = said[0], next(text for text in said if "dropped" in text), said[-1]
    assert (first, rest) == ("line 1", "line 100")
    kept = [text for text in said if text.startswith("line")]
    assert len(kept) < 15
    assert missing == f"{100 - len(kept)} lines dropped here: no room, no store, or more than is kept"


def test_full_disk_drops_lines_and_the_next_one_says_how_many(run, monkeypatch):
    log, write, full = ProcessLog(ids(run), "w0"), os.write, False

    def failing(handle: int, data: bytes) -> int:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data)

    monkeypatch.setattr(os, "write", failing)
    for n in range(1, 6):
        full = n in (2, 3, 4)
        log.handle(logging.LogRecord("lib", logging.INFO, "x.py", 1, "line %d", (n,), None))
    log.close()
    assert messages(run) == ["line 1", "3 lines dropped here: no room, no store, or more than is kept", "line 5"]


def test_line_that_a_full_disk_tore_spoils_no_other(tmp_path, monkeypatch):
    files, write = LogFiles(tmp_path, "s", "w0", "p"), os.write
    assert files.write(b'{"n": 1}')
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:4]))
    assert not files.write(b'{"n": 2}')
    monkeypatch.setattr(os, "write", write)
    assert files.write(b'{"n": 3}')
    assert (tmp_path / files.name(1)).read_bytes() == b'{"n": 1}\n{"n"\n{"n": 3}\n'


def test_folder_that_is_gone_and_a_record_that_cannot_be_printed_cost_a_line_at_most(run, tmp_path):
    log = ProcessLog(replace(ids(run), path="/proc/nowhere"), "w0").open()
    logging.getLogger("dgbatch").info("nobody hears this")
    log.close()
    log = ProcessLog(ids(run), "w0").open()
    logging.getLogger("dgbatch").warning("%d rows", "not a number")
    log.close()
    assert messages(run) == ["%d rows"]


def test_lines_of_all_processes_come_by_time_and_submits_one_after_the_other(run):
    say(run, "second", at=20.0, worker="w1")
    say(run, "first", at=10.0)
    say(run, "earlier submit", at=30.0, submit="20251121T163205-3f9c")
    assert messages(run) == ["earlier submit", "first", "second"]


def test_what_is_asked_for_and_nothing_else(run):
    say(run, "info of w0", at=10.0)
    say(run, "warning of w1", at=20.0, worker="w1", level=logging.WARNING)
    assert messages(run, workers=frozenset(["w1"])) == ["warning of w1"]
    assert messages(run, level="warning") == ["warning of w1"]
    assert messages(run, since="1970-01-01T00:00:15") == ["warning of w1"]
    assert messages(run, shard=7) == ["info of w0", "warning of w1"]
    assert messages(run, shard=4) == []


def test_events_are_lines_of_the_driver():
    lost = event_line({"at": "t", "kind": "worker_lost", "worker": "w0", "shards": [3], "reason": "it died"})
    assert (lost["worker"], lost["level"], lost["shards"]) == ("driver", "warning", [3])
    assert lost["message"] == "worker lost worker=w0 shards=3: it died"
    assert event_line({"at": "t", "kind": "completed"})["message"] == "completed"
    stats = event_line({"at": "t", "kind": "worker_stats", "seconds": {"load": 0.0, "denoise": 2.5}, "passes": 7})
    assert stats["message"] == "worker stats seconds=denoise:2.5 passes=7"


def test_follow_gives_each_line_once_as_it_comes(run):
    follow = Follow(run, "20261121T163205-3f9c")
    say(run, "of an earlier submit", submit="20251121T163205-3f9c")
    say(run, "one")
    assert [line["message"] for line in follow.news()] == ["one"]
    log = ProcessLog(ids(run), "w1").open()
    try:
        logging.getLogger("dgbatch").info("two")
        assert [line["message"] for line in follow.news()] == ["two"]
        run.folder.append(EVENTS, json.dumps({"at": "2099-01-01T00:00:00+00:00", "kind": "completed"}).encode())
        logging.getLogger("dgbatch").info("three")
        assert [line["message"] for line in follow.until(lambda: True)] == ["three", "completed"]
    finally:
        log.close()


def test_time_of_since_is_an_age_or_a_moment():
    assert since("10m", NOW) == "2026-11-21T15:50:00.000+00:00"
    assert since("1.5h", NOW) == "2026-11-21T14:30:00.000+00:00"
    assert since("2026-11-21T16:30+02:00") == "2026-11-21T14:30:00.000+00:00"
    assert since("2026-11-21") == "2026-11-21T00:00:00.000+00:00"
    with pytest.raises(OptionError, match=r"--since yesterday: not a time\. Give 90s, 10m"):
        since("yesterday")


def test_worker_may_be_named_by_its_number_and_a_wrong_one_lists_the_known():
    assert named_workers(["0", "w1", "driver"], ["driver", "w0", "w1"]) == {"w0", "w1", "driver"}
    with pytest.raises(OptionError, match=r"--worker 7: nobody of this name.*There are: driver, w0\."):
        named_workers(["7"], ["driver", "w0"])


def test_name_of_a_submit_says_when_it_began():
    assert opened_at("20261121T163205-3f9c") == "2026-11-21T16:32:05+00:00"
    assert opened_at("else") == ""


def test_oldest_submits_go_whole_when_there_are_too_many_files(run, monkeypatch):
    monkeypatch.setattr(log_keeping, "MOST_CHUNKS", 3)
    for year in ("2024", "2025", "2026"):
        for worker in ("w0", "w1"):
            say(run, year, worker=worker, submit=f"{year}1121T163205-3f9c")
    make_room(open_folder(run.path))
    assert messages(run) == ["2026", "2026"]


DYING = """
import os, sys
from dgbatch.runner.logs.process_log import LogIds, worker_log
log = worker_log(LogIds({path!r}, {path!r}, "test", "20261121T163205-3f9c", {{"hunter2": "${{SECRET}}"}}), "w0", list)
assert log is not None
os.write(2, b"native hunter2\\n")
sys.stderr.write("no end of line")
os._exit(9)
"""


def test_last_words_of_a_process_are_put_into_the_run_by_the_next_one_on_its_machine(run):
    """Here and in a store: tests/stores/test_store_logs.py."""
    root = str(Path(__file__).parents[3])
    subprocess.run(
        [sys.executable, "-c", DYING.format(path=run.path)], cwd=root, env={**os.environ, "PYTHONPATH": root}
    )
    assert "native ${SECRET}" not in messages(run)
    with driver_log(ids(run)):
        pass
    said = messages(run, workers=frozenset(["w0"]))
    assert said[-2:] == ["native ${SECRET}", "no end of line"]
    assert b"hunter2" not in b"".join(path.read_bytes() for path in Path(run.path, LOGS).iterdir())


def test_driver_that_ends_waits_a_moment_for_workers_that_were_told_to(run, tmp_path):
    root, ready = str(Path(__file__).parents[3]), tmp_path / "ready"
    script = DYING.format(path=run.path).replace("os._exit(9)", f"open({str(ready)!r}, 'w'); sys.stdin.read()")
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen([sys.executable, "-c", script], cwd=root, env=environment, stdin=subprocess.PIPE) as process:
        with driver_log(ids(run)):
            while not ready.exists():
                assert process.poll() is None
                time.sleep(0.01)
            threading.Timer(0.2, process.kill).start()
        # Killed between telling a line and blanking it out, a process leaves that line twice, and the last one earlier.
        assert "no end of line" in messages(run, workers=frozenset(["w0"]))


def test_making_room_has_a_limit_and_a_store_that_refuses_it_costs_no_log(run, monkeypatch):
    monkeypatch.setattr(log_keeping, "MOST_CHUNKS", 0)
    for worker in ("w0", "w1"):
        say(run, worker, worker=worker)
    make_room(open_folder(run.path), limit_s=0.0)
    assert messages(run) == ["w1"]

    def refused(folder: object) -> None:
        raise PermissionError

    monkeypatch.setattr(process_log, "make_room", refused)
    with driver_log(ids(run)):
        logging.getLogger("dgbatch").info("said all the same")
    assert "said all the same" in messages(run)


@pytest.mark.parametrize("text", ["99999999999d", "0001-01-01T00:00+14:00"])
def test_time_before_all_times_is_none(text):
    with pytest.raises(OptionError, match="not a time"):
        since(text)
