from __future__ import annotations

import json
import logging

import pytest
from rich.console import Console

from dgbatch.cli import output
from dgbatch.runner.logs.process_log import LogIds, ProcessLog
from tests.cli.command import dgbatch
from tests.runner.conftest import make_job, prompts
from tests.runner.small_run import new_run

__all__ = ["make_job"]

FIRST, SECOND = "20261121T163205-3f9c", "20261121T170000-77aa"


def say(path: str, worker: str, message: str, submit: str = FIRST, level: int = logging.INFO, trace: str = "") -> None:
    log = ProcessLog(LogIds(path, path, "test", submit, {}), worker)
    record = logging.LogRecord("lib", level, "x.py", 1, message, (), None)
    record.created = {FIRST: 1_795_278_730.0, SECOND: 1_795_280_410.0}[submit]
    record.trace = trace
    log.handle(record)
    log.close()


@pytest.fixture
def run(make_job) -> str:
    """Two submits; in the first one worker w1 raised."""
    path = new_run(make_job(prompts(2))).path
    say(path, "w0", "shard 0 written: 2 rows")
    say(path, "w1", "the engine failed", level=logging.ERROR, trace="Traceback:\n  File x\nRuntimeError: \x1b[2Jno")
    say(path, "w0", "loaded", submit=SECOND)
    return path


def test_piped_lines_stand_in_full_with_a_heading_for_each_submit(capfd, run):
    assert dgbatch(capfd, "logs", run).out.splitlines() == [
        "# submit 1, 2026-11-21 16:32:05 UTC",
        "2026-11-21T16:32:10.000Z w0 info shard 0 written: 2 rows",
        "2026-11-21T16:32:10.000Z w1 error the engine failed",
        "    Traceback:",
        "      File x",
        r"    RuntimeError: \x1b[2Jno",
        "# submit 2, 2026-11-21 17:00:00 UTC",
        "2026-11-21T17:00:10.000Z w0 info loaded",
    ]


def test_what_is_asked_for_is_what_is_shown(capfd, run):
    def shown(*options: str) -> list[str]:
        return [
            json.loads(line)["message"] for line in dgbatch(capfd, "logs", run, "--json", *options).out.splitlines()
        ]

    assert shown() == ["shard 0 written: 2 rows", "the engine failed", "loaded"]
    assert shown("--worker", "0") == ["shard 0 written: 2 rows", "loaded"]
    assert shown("--worker", "w1", "-w", "driver") == ["the engine failed"]
    assert shown("--level", "warning") == ["the engine failed"]
    assert shown("--tail", "1") == ["loaded"]
    assert shown("--tail", "0") == []
    assert shown("--submit", "1", "-n", "1") == ["the engine failed"]
    assert shown("--submit", "-1") == ["loaded"]
    assert shown("--since", "2026-11-21T16:50") == ["loaded"]


def test_what_cannot_be_is_refused_with_what_can(capfd, run, tmp_path):
    wrong = dgbatch(capfd, "logs", run, "--worker", "w7", "--json")
    assert wrong.code == 2
    assert "There are: driver, w0, w1." in wrong.json["error"]["message"]
    assert "the logs are of 2" in dgbatch(capfd, "logs", run, "--submit", "3").err
    assert "not a time" in dgbatch(capfd, "logs", run, "--since", "noon").err
    assert "no run here" in dgbatch(capfd, "logs", str(tmp_path / "nowhere")).err


def test_run_without_logs_says_so(capfd, make_job):
    left = dgbatch(capfd, "logs", new_run(make_job(prompts(2))).path)
    assert (left.code, left.out) == (0, "")
    assert "there are no logs in this run" in left.err


def test_terminal_of_80_columns_is_never_overrun_and_texts_hang_below_each_other(capfd, run, monkeypatch):
    say(run, "w0", "word " * 40, submit=SECOND)
    monkeypatch.setattr(output, "console", lambda: Console(force_terminal=True, color_system=None, width=80))
    shown = dgbatch(capfd, "logs", run).out.splitlines()
    assert max(map(len, shown)) <= 80
    assert shown[0] == "── submit 1, 2026-11-21 16:32:05 UTC " + "─" * 43
    assert shown[1] == "16:32:10 w0     shard 0 written: 2 rows"
    assert shown[2] == "16:32:10 w1     error the engine failed"
    assert shown[4] == "                  File x"
    assert shown[-3].startswith("                word word")


def test_follow_goes_on_until_nobody_holds_the_run(capfd, run, monkeypatch):
    looks = []

    def owner(path: str) -> str | None:
        """Somebody, who says another line between the first two looks."""
        looks.append(path)
        if len(looks) == 2:
            say(run, "w2", "what came later", submit=SECOND)
        return "somebody" if len(looks) < 3 else None

    monkeypatch.setattr("dgbatch.runner.storage.lock.owner", owner)
    said = [json.loads(line)["message"] for line in dgbatch(capfd, "logs", run, "--follow", "--json").out.splitlines()]
    assert said == ["loaded", "what came later"]
    assert len(looks) == 3
