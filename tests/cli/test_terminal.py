"""The live terminal, on a pseudo-terminal: what people see of `submit` and `status --watch`, and what stays behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dgbatch.runner.run_folder import Run
from dgbatch.runner.spec import load_job
from dgbatch.runner.storage.lock import lock
from dgbatch.runner.terminal.live_file import LiveFile
from tests.fake_engine import fake_job
from tests.runner.small_run import commit_all, new_run
from tests.runner.terminal.test_live import WORKING
from tests.terminal import GOLDEN, LIMIT_S, ROOT, Terminal, check_golden

PICTURE = [sys.executable, "-m", "tests.picture"]
SUBMIT = [sys.executable, "-m", "tests.fake_cli", "submit"]
STATUS = [sys.executable, "-m", "dgbatch", "status"]


def drawn(text: str) -> bool:
    """Whether the picture is there, whole: its last line is that of the error."""
    return "16:40:02 worker w2" in text


# ---- one moment, as it is drawn


def test_golden_screen_of_80x24_and_after_each_resize(update_golden):
    with Terminal(PICTURE) as terminal:
        check_golden("screen-80x24", terminal.until(drawn), update_golden)
        for columns, rows in ((120, 30), (200, 50), (60, 24)):
            terminal.resize(columns, rows)
            golden = GOLDEN / f"screen-{columns}x{rows}.txt"
            if update_golden:
                golden.write_text(
                    terminal.until(lambda text, c=columns: drawn(text) and len(text.split("\n")[0]) == c - 1)
                )
            terminal.until(lambda text, golden=golden: text == golden.read_text(encoding="utf-8"))
        terminal.assert_tidy()


def test_golden_screen_of_40_columns(update_golden):
    with Terminal(PICTURE, columns=40) as terminal:
        check_golden("screen-40x24", terminal.until(drawn), update_golden)


def test_screen_is_never_cleared_nor_written_again_while_nothing_changes():
    with Terminal(PICTURE) as terminal:
        terminal.until(drawn)
        terminal.written = b""
        assert terminal._read(0.8) is False
        terminal.resize(90, 24)
        terminal.until(lambda text: len(text.split("\n")[0]) == 89)
        assert b"\x1b[2J" not in terminal.written and b"\x1b[?1049" not in terminal.written


def test_ctrl_c_leaves_nothing_on_the_screen_and_its_modes_as_they_were():
    with Terminal(PICTURE) as terminal:
        terminal.until(drawn)
        terminal.type(b"\x03")
        assert terminal.left() == 130
        assert terminal.text == "\n"
        assert (terminal.screen.cursor.x, terminal.screen.cursor.y) == (0, 0)
        terminal.assert_tidy()


def test_kill_leaves_the_modes_of_the_terminal_as_they_were():
    with Terminal(PICTURE) as terminal:
        terminal.until(drawn)
        terminal.kill()
        assert terminal.left() < 0
        terminal.assert_tidy()


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "xterm-256color")])
def test_no_color_is_heeded(name, value):
    with Terminal(PICTURE, environment={name: value}) as terminal:
        terminal.until(drawn)
        coloured = re.search(rb"\x1b\[[\d;]*3[0-7][;m]", terminal.written) is not None
        assert coloured == (name != "NO_COLOR")


def test_dumb_terminal_gets_plain_lines():
    with Terminal(PICTURE, environment={"TERM": "dumb"}) as terminal:
        terminal.until(lambda text: "demo: 612/1,000 rows (61%), 1,204 tokens/s" in text)
        assert b"\x1b" not in terminal.written


def test_terminal_without_utf_8_gets_ascii():
    with Terminal(PICTURE, environment={"PYTHONIOENCODING": "ascii"}) as terminal:
        assert terminal.until(drawn).isascii()


# ---- status --watch, beside a driver that is this test


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = new_run(load_job(fake_job(tmp_path, ["x"] * 32)))
    commit_all(made, shards=made.plan.shards[:2])
    return made


class Driver:
    """A run at work, that tells how it goes."""

    def __init__(self, run: Run):
        self.run = run
        self._held = lock(run.path)
        self._live = LiveFile(run.folder, lambda progress: None, every_s=0.2)

    def __enter__(self) -> Driver:
        self._held.__enter__()
        self.run.event("started")
        self._live.__enter__()
        self._live(replace(WORKING, path=self.run.path))
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)
        self._held.__exit__(None, None, None)

    def complete(self) -> None:
        commit_all(self.run, bad=lambda row_id: row_id == "r0030", shards=self.run.plan.shards[2:])
        self.run.finalise()


@pytest.fixture
def driver(run) -> Iterator[Driver]:
    with Driver(run) as at_work:
        yield at_work


def test_watch_shows_the_picture_and_ends_with_the_run_and_its_exit_code(driver):
    with Terminal([*STATUS, driver.run.path, "--watch"]) as terminal:
        terminal.until(drawn)
        driver.complete()
        driver._live.__exit__(None, None, None)
        assert terminal.left() == 3
        assert "completed" in terminal.text and "32 of 32: 31 ok, 1 quarantined" in terminal.text
        assert "w0" not in terminal.text
        terminal.assert_tidy()


def test_ctrl_c_ends_the_watch_with_130_and_not_the_run(driver):
    with Terminal([*STATUS, driver.run.path, "--watch"]) as terminal:
        terminal.until(drawn)
        terminal.type(b"\x03")
        assert terminal.left() == 130
        assert terminal.text.strip() in ("", "^C")
        terminal.assert_tidy()
    assert [event["kind"] for event in driver.run.events()] == ["started"]


def test_watch_for_programs_is_an_object_a_line_the_last_with_the_exit_code(driver):
    watching = subprocess.Popen(
        [*STATUS, driver.run.path, "--watch", "--json"],
        stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert watching.stdout is not None
    lines = [json.loads(watching.stdout.readline())]
    driver.complete()
    driver._live.__exit__(None, None, None)
    out, _ = watching.communicate(timeout=LIMIT_S)
    lines += [json.loads(line) for line in out.splitlines()]
    assert watching.returncode == 3
    assert lines[0]["rows"] == {"expected": 1000, "done": 612, "ok": 500, "quarantined": 3}
    assert [worker["name"] for worker in lines[0]["crew"]] == ["w0", "w1", "w2"]
    last = lines[-1]
    assert (last["state"], last["exit_code"], last["run"]) == ("completed", 3, driver.run.path)
    assert last["rows"] == {"expected": 32, "ok": 31, "quarantined": 1}


# ---- whole jobs


def masked(text: str) -> str:
    """A screen without what differs from run to run: numbers, lengths of bars, room between columns."""
    text = re.sub(r"[━╸─]+", "━", text)
    text = re.sub(r"[▁▂▃▄▅▆▇█░▒▓]{2,}", "▁", text)
    text = re.sub(r"\d[\d,.:]*", "#", text)
    text = re.sub(r"(?m)^time .*(\n[█▓▒░] .*)*", "time", text)  # the phases come in the order of their shares
    text = re.sub(r"(denoise|prefill|sample|waiting) +#%", "phase #%", text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines()) + "\n"


def test_submit_shows_the_job_on_a_terminal_and_ctrl_c_leaves_it_tidy(tmp_path, update_golden):
    job = fake_job(tmp_path, ["!steps=3 x"] * 1600, {"step_s": 0.05}, workers={"count": 2})
    with Terminal([*SUBMIT, job]) as terminal:
        terminal.until(lambda text: "loading the checkpoint" in text)
        text = terminal.until(
            lambda text: re.search(r"\d to \d[^╸]*w0 +working +\d.*\n.*w1 +working +\d", text) and "ETA 0:" in text
        )
        check_golden("submit-masked", masked(text), update_golden)
        with Terminal([*STATUS, str(tmp_path / "out"), "--watch"], columns=100) as watching:
            watching.until(lambda text: re.search(r"w1 +working", text))
            terminal.resize(50, 24)
            terminal.until(lambda text: "canvases" not in text and re.search(r"w1 .*working", text))
            terminal.resize(80, 24)
            terminal.type(b"\x03")
            assert terminal.left() == 130
            assert "error:" in terminal.text and "resume: dgbatch submit" in terminal.text
            assert "tokens/s" not in terminal.text
            terminal.assert_tidy()
            assert watching.left() == 130
            assert "cancelled" in watching.text
            watching.assert_tidy()
