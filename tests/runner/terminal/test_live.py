from __future__ import annotations

from dataclasses import replace

import pytest

from dgbatch.runner.progress import Problem, Progress, WorkerState, WorkerView
from dgbatch.runner.terminal.live import frame, sparkline
from tests.terminal import check_golden

SECONDS = {"load": 9.0, "tokenize": 1.0, "prefill": 2.0, "denoise": 20.0, "sample": 2.0, "wait_input": 1.0}


def worker(number: int, state: WorkerState = "working", since_step_s: float = 0.2) -> WorkerView:
    if state == "starting":
        return WorkerView(f"w{number}")
    return WorkerView(
        f"w{number}", state, "NVIDIA H200", 8, 312 + number, 640.2 - number, since_step_s, SECONDS
    )  # fmt: skip


WORKING = Progress(
    state="in_progress", name="demo", path="out/demo", expected=1000, rows=612, quarantined=3, ok=500, tokens=30_000,
    shards=16, shards_done=9, tokens_per_s=1204.0, mean_tokens_per_s=1150.0, eta_s=17.4, steps_per_canvas=7.31,
    recent_steps=tuple(5 + (7 * i % 11) / 3 for i in range(60)), seconds=SECONDS,
    crew=(worker(0), worker(1, since_step_s=31.0), worker(2, "starting")),
    problems=(Problem("2026-11-21T16:40:02+00:00", "worker w2 died: connection error; starting another"),),
    elapsed_s=41.0, metrics_url="http://127.0.0.1:41234/metrics",
)  # fmt: skip
HUGE = replace(
    WORKING, expected=10_000_000, rows=6_123_456, quarantined=12_345, shards=19_532, shards_done=11_960,
    tokens_per_s=1_234_567.0, mean_tokens_per_s=987_654.3, eta_s=100_000.0, elapsed_s=200_000.0, note="stopping",
    crew=(
        *(worker(i, "idle" if i % 9 == 8 else "working", 44.0 if i == 18 else 0.0) for i in range(60)),
        worker(60, "starting"),
        worker(61, "leaving"),
    ),
)  # fmt: skip


def drawn(progress: Progress, width: int, height: int, ascii_only: bool = False) -> list[str]:
    return [line.plain.rstrip() for line in frame(progress, width, height, ascii_only)]


@pytest.fixture(autouse=True)
def in_greenwich(monkeypatch):
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 24), (200, 24), (80, 10)])
@pytest.mark.parametrize("name", ["working", "huge"])
def test_golden_picture(name, width, height, update_golden):
    lines = drawn({"working": WORKING, "huge": HUGE}[name], width, height)
    check_golden(f"{name}-{width}x{height}", "\n".join(lines) + "\n", update_golden)


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("progress", [WORKING, HUGE, Progress("validating", "x" * 300, "out", note="reading " * 40)])
def test_picture_fits_into_any_terminal(progress, ascii_only):
    for width in (1, 5, 20, 39, 59, 60, 80, 133):
        for height in (1, 2, 5, 9, 24):
            lines = frame(progress, width, height, ascii_only)
            assert len(lines) <= height
            assert all(line.cell_len <= width for line in lines)


def test_nothing_of_the_run_is_cut_off_in_80_columns():
    assert not any("…" in line for line in drawn(HUGE, 80, 24)[:5])


def test_terminal_without_unicode_gets_ascii():
    lines = drawn(replace(WORKING, note="wörking"), 80, 24, ascii_only=True)
    assert all(line.isascii() for line in lines)
    assert lines[1].startswith("====") and "# denoise 77%" in "\n".join(lines)
    assert lines[-1] == "- w?rking"


def test_before_the_first_row_it_says_what_is_going_on():
    lines = drawn(Progress("validating", "demo", "out/demo", note="reading the input"), 80, 24)
    assert [line.split() for line in lines] == [["demo", "0:00"], ["⠋", "reading", "the", "input"]]


def test_time_left_is_that_of_the_rows_alone():
    verifying = Progress("finalizing", "demo", "out", 1000, 1000, elapsed_s=9.0, note="verifying every row")
    assert drawn(verifying, 80, 24)[1].endswith("1,000 / 1,000 rows  100%")


def test_workers_that_something_is_the_matter_with_are_shown_where_not_all_have_room():
    text = "\n".join(drawn(HUGE, 80, 16))
    assert "w18     no step for 0:44" in text
    assert "w60     starting" in text and "w61     leaving" in text
    assert "more: 5" in text and "working, 6 idle" in text


def test_the_newest_errors_are_shown_and_a_note_that_is_one_of_them_is_not_repeated():
    problems = tuple(Problem(f"2026-11-21T16:40:0{i}+00:00", f"error {i}") for i in range(5))
    lines = drawn(replace(WORKING, problems=problems, note="error 4"), 80, 14)
    assert lines[-1] == "16:40:04 error 4"
    assert "last errors" in lines
    assert not any("error 0" in line for line in lines)


def test_a_long_error_is_whole_where_there_is_room():
    long = replace(WORKING, problems=(Problem("2026-11-21T16:40:02+00:00", "word " * 40),))
    lines = drawn(long, 80, 24)
    assert lines[-3].startswith("16:40:02 word word") and lines[-1].startswith("         word")
    assert sum(line.count("word") for line in lines) == 40
    assert drawn(long, 80, 12)[-1].endswith("…")


def test_all_rows_and_no_fewer_are_a_hundred_per_cent():
    assert "99%" in drawn(replace(WORKING, rows=999), 80, 24)[1]
    assert "100%" in drawn(replace(WORKING, rows=1000), 80, 24)[1]


def test_sparkline_runs_from_the_lowest_to_the_highest():
    assert sparkline([1, 2, 3, 8], 10) == "▁▂▃█"
    assert sparkline([5, 5], 10) == "▄▄"
    assert sparkline([9, 1, 8], 2) == "▁█"
    assert sparkline([], 10) == sparkline([1.0], 0) == ""


def test_marks_tell_the_phases_apart_without_colour():
    bar = next(line for line in drawn(WORKING, 80, 24) if line.startswith("time"))
    cells = bar.split("  ")[1]
    assert {mark: cells.count(mark) for mark in "█▓▒░"} == {"█": 13, "▓": 2, "▒": 1, "░": 1}
    assert "█ denoise 77%  ▓ prefill 12%  ▒ sample 8%  ░ waiting 4%" in bar


def test_nothing_of_a_row_moves_the_cursor():
    """An id stands in the line of a row that kills its worker, and a note may have two lines."""
    problem = Problem("2026-11-21T16:40:02+00:00", "row \x1b[2J of shard 3 kills its worker")
    lines = drawn(replace(WORKING, problems=(problem,), note="a\x1b[2J\nb"), 80, 24)
    assert any(r"row \x1b[2J of shard 3" in line for line in lines)
    assert r"a\x1b[2J b" in lines[-1]
    assert not any("\x1b" in line or "\n" in line for line in lines)
