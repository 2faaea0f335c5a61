from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from dgbatch.runner.progress import Display, Progress, Rates, clock, panel, plain_line, rate

WORKING = Progress(
    state="in_progress", name="demo", path="out/demo", expected=1000, rows=612, shards=16, shards_done=9,
    tokens_per_s=1204.0, rows_per_s=22.3, steps_per_canvas=7.31, workers=2, elapsed_s=41.0,
)  # fmt: skip


def drawn(progress: Progress, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(panel(progress))
    return console.file.getvalue().splitlines()


def test_display_shows_rows_speed_steps_eta_and_workers():
    head, bar, figures = drawn(WORKING)
    assert head.split() == ["demo", "2", "workers", "0:41"]
    assert "612 / 1,000 rows" in bar and "61%" in bar
    assert "1,204 tokens/s" in figures and "7.3 steps per canvas" in figures
    assert "9/16 shards" in figures and "ETA 0:17" in figures


def test_display_of_a_huge_job_fits_into_80_columns_uncut():
    huge = replace(WORKING, expected=10_000_000, rows=6_123_456, shards=19_532, shards_done=11_960, quarantined=1,
                   note="worker w1 died; starting another")  # fmt: skip
    lines = drawn(huge)
    assert all(len(line) <= 80 for line in lines)
    assert not any("…" in line for line in lines)
    assert "1 row quarantined" in lines[3]
    assert "worker w1 died; starting another" in lines[4]


def test_display_before_the_first_row_says_what_is_going_on():
    lines = drawn(Progress("validating", "demo", "out/demo", note="reading the input"))
    assert len(lines) == 2
    assert "reading the input" in lines[1]


def test_plain_line_says_the_same_in_words():
    assert plain_line(WORKING) == "demo: 612/1,000 rows (61%), 1,204 tokens/s, 7.3 steps/canvas, ETA 0:17, 2 workers"
    assert plain_line(replace(WORKING, quarantined=3, workers=1, note="oh")).endswith("1 worker, 3 quarantined, oh")
    assert plain_line(Progress("finalizing", "demo", "x", note="verifying every row")) == "demo: verifying every row"


def test_without_a_terminal_lines_come_seldom_and_notes_at_once():
    out, now = io.StringIO(), [0.0]
    display = Display(Console(file=out, width=80), now=lambda: now[0])
    with display:
        for second in range(25):
            now[0] = float(second)
            display(replace(WORKING, rows=second, note="a worker died" if second == 3 else ""))
    lines = out.getvalue().splitlines()
    assert [int(line.split()[1].split("/")[0]) for line in lines] == [0, 3, 13, 23]
    assert "a worker died" in lines[1]
    assert display.path == "out/demo"


def test_on_a_terminal_the_display_is_live_and_leaves_nothing_behind():
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with Display(console) as display:
        display(WORKING)
    assert "612" in console.file.getvalue()
    assert display._live is not None and not display._live.is_started


def test_rates_are_those_of_the_window():
    rates = Rates(window_s=10)
    assert rates.rows_per_s is None
    for second in range(21):  # 1 row a second at first, then 3
        rates.add(second, second if second <= 10 else 10 + 3 * (second - 10), 100 * second)
    assert rates.rows_per_s == pytest.approx(3.0)
    assert rates.tokens_per_s == pytest.approx(100.0)


def test_rates_start_anew_when_a_worker_took_its_open_rows_with_it():
    rates = Rates()
    rates.add(0, 0, 0)
    rates.add(10, 100, 1000)
    rates.add(11, 60, 1000)
    assert rates.rows_per_s is None
    rates.add(12, 70, 1100)
    assert rates.rows_per_s == pytest.approx(10.0)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75.4, "1:15"), (7261, "2:01:01"), (None, "--:--")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_rate():
    assert [rate(None), rate(3.14159), rate(1234.5)] == ["-", "3.1", "1,234"]


def test_eta_follows_from_the_rows_that_are_left():
    assert WORKING.eta_s == pytest.approx(388 / 22.3)
    assert replace(WORKING, rows_per_s=None).eta_s is None
