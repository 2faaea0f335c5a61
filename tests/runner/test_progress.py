from __future__ import annotations

import json

import pytest

from dgbatch.runner.progress import Problem, Progress, WorkerView, shares_of

WORKING = Progress(
    state="in_progress", name="demo", path="out/demo", expected=1000, rows=612, quarantined=3, ok=500, tokens=30_000,
    shards=16, shards_done=9, tokens_per_s=1204.0, rows_per_s=22.3, mean_tokens_per_s=1150.0, eta_s=17.4,
    steps_per_canvas=7.31, recent_steps=(7.0, 7.5, 9.25), seconds={"load": 9.0, "denoise": 30.0, "wait_input": 10.0},
    crew=(
        WorkerView("w0", "working", "NVIDIA H200", 8, 312, 640.0, 0.25, {"denoise": 30.0}),
        WorkerView("w1", "starting"),
    ),
    problems=(Problem("2026-11-21T16:40:02+00:00", "worker w1 died"),), elapsed_s=41.0, note="", metrics_url="http://x",
)  # fmt: skip


def test_progress_comes_back_from_json_as_it_was():
    told = json.loads(json.dumps(WORKING.to_json()))
    assert Progress.from_json(told) == WORKING


def test_json_of_progress_says_what_status_says_and_more():
    told = WORKING.to_json()
    assert told["rows"] == {"expected": 1000, "done": 612, "ok": 500, "quarantined": 3}
    assert (told["state"], told["run"], told["tokens"], told["workers"]) == ("in_progress", "out/demo", 30_000, 1)
    assert (told["tokens_per_s"], told["eta_s"]) == (1204.0, 17.4)
    assert told["crew"][0]["tokens_per_s"] == 640.0


def test_something_else_is_no_progress():
    with pytest.raises((KeyError, TypeError)):
        Progress.from_json({"rows": {}, "shards": {}})


def test_workers_are_those_whose_model_is_loaded():
    assert WORKING.workers == 1


def test_shares_of_time_leave_out_loading_and_add_up_to_all():
    assert WORKING.shares == {"denoise": 0.75, "waiting": 0.25}
    shares = shares_of({"tokenize": 1.0, "prefill": 2.0, "sample": 1.0, "novel": 4.0, "denoise": 0.0})
    assert shares == {"novel": 0.5, "prefill": 0.375, "sample": 0.125}
    assert shares_of({"load": 3.0}) == {}
