from __future__ import annotations

import io
import json
import os
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
from rich.console import Console

from dgbatch.runner.progress import Progress
from dgbatch.runner.terminal.display import JsonLines, LivePicture, PlainLines, display_on
from tests.runner.test_progress import WORKING


def test_without_a_terminal_lines_come_seldom_and_notes_at_once():
    out, now = io.StringIO(), [0.0]
    with PlainLines(Console(file=out, width=80), now=lambda: now[0]) as display:
        for second in range(25):
            now[0] = float(second)
            display(replace(WORKING, rows=second, note="a worker died" if second == 3 else ""))
    lines = out.getvalue().splitlines()
    assert [int(line.split()[1].split("/")[0]) for line in lines] == [0, 3, 13, 23]
    assert "a worker died" in lines[1]
    assert display.path == "out/demo"


def test_json_lines_come_each_second_and_news_at_once():
    out, now = io.StringIO(), [100.0]
    with JsonLines(out, now=lambda: now[0]) as display:
        for tenth in range(25):
            now[0] = 100 + tenth / 10
            display(replace(WORKING, rows=tenth, note="a worker died" if tenth == 3 else ""))
        display(Progress("finalizing", "demo", "out/demo", 1000, 1000))
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["rows"]["done"] for line in told] == [0, 3, 4, 14, 24, 1000]
    assert [line["state"] for line in told][-2:] == ["in_progress", "finalizing"]


def test_which_display_suits(monkeypatch):
    monkeypatch.delenv("TERM", raising=False)
    assert isinstance(display_on(Console(file=io.StringIO())), PlainLines)
    terminal = Console(file=io.StringIO(), force_terminal=True)
    assert isinstance(display_on(terminal), LivePicture)
    assert isinstance(display_on(terminal, json_lines=True), JsonLines)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(display_on(Console(file=io.StringIO(), force_terminal=True)), PlainLines)


def picture(now: list[float], **options) -> tuple[LivePicture, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=80, height=24, force_terminal=True, color_system=None, _environ={})
    return LivePicture(console, now=lambda: now[0], tick_s=3600.0, **options), out


def test_clocks_of_the_picture_go_on_while_nothing_is_told():
    now = [0.0]
    display, out = picture(now)
    display(WORKING)
    display.paint()
    assert "0:41" in out.getvalue() and "0:17" in out.getvalue()
    now[0] = 10.0
    display.paint()
    assert "0:51" in out.getvalue() and "0:07" in out.getvalue()


def test_picture_leaves_nothing_behind_and_may_be_closed_twice():
    display, out = picture([0.0])
    with display:
        display(WORKING)
        display.paint()
        display.close()
    assert out.getvalue().endswith("\x1b[J\x1b[?7h\x1b[?25h\x1b[?2026l")


def test_what_is_printed_while_the_picture_is_there_stands_above_it(monkeypatch):
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    mine = Tty()
    monkeypatch.setattr(sys, "stderr", mine)
    display, out = picture([0.0])
    with display:
        display(WORKING)
        display.paint()
        print("half a line, ", end="", file=sys.stderr)
        assert "half" not in out.getvalue()
        print("and the rest", file=sys.stderr)
        assert "half a line, and the rest\r\n" in out.getvalue()
    assert sys.stderr is mine


@pytest.mark.parametrize("show", [lambda file, of_job: JsonLines(file, of_job=of_job),
                                  lambda file, of_job: PlainLines(Console(file=file, width=80), of_job=of_job)],
                         ids=["json", "plain"])  # fmt: skip
def test_a_job_goes_on_when_nobody_reads_its_lines_and_a_watch_ends(show):
    for of_job in (True, False):
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w") as file:
            display = show(file, of_job)
            with nullcontext() if of_job else pytest.raises(BrokenPipeError):
                display(WORKING)
                display(replace(WORKING, state="finalizing", note="verifying every row"))
                print("the last object", file=file, flush=True)
            os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # so that the file can be closed


def test_a_job_goes_on_when_the_disk_of_its_lines_is_full():
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    JsonLines(Full(), of_job=True)(WORKING)
    with pytest.raises(OSError, match="No space left"):
        JsonLines(Full())(WORKING)


def test_json_lines_fit_any_stream():
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    JsonLines(out)(replace(WORKING, note="größer"))
    assert json.loads(out.buffer.getvalue())["note"] == "größer"
