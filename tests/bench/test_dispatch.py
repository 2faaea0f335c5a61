from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from dgbatch.bench.dispatch import DispatchBench, bench_dispatch


def test_simulated_job_is_done_whole_with_deaths_and_halves_taken_over():
    told = bench_dispatch(DispatchBench(workers=20, shards=100, deaths=0.002))
    assert (told["workers"], told["shards"]) == (20, 100)
    assert told["deaths"] > 0 and told["cuts"] > 0
    decisions = told["decisions"]
    assert set(decisions) == {"heard", "next_for", "finished", "lost", "to_cut", "cut", "all"}
    assert decisions["all"]["calls"] == sum(each["calls"] for name, each in decisions.items() if name != "all")
    assert decisions["finished"]["calls"] == 100 + told["cuts"]


def test_same_seed_simulates_the_same_job():
    small = DispatchBench(workers=5, shards=20)
    one, two = bench_dispatch(small), bench_dispatch(small)
    assert (one["reports"], one["simulated_s"]) == (two["reports"], two["simulated_s"])


def test_workers_that_share_halves_are_done_soon_after_the_rows_are():
    told = bench_dispatch(DispatchBench(workers=50, shards=200, deaths=0.0))
    rows_alone_s = 200 * 512 / (50 * 100.0)
    assert told["simulated_s"] < 1.5 * rows_alone_s  # one worker in fifty takes five times as long for its shard


def test_no_decision_takes_a_millisecond_with_a_thousand_workers_and_twenty_thousand_shards():
    """In a process of its own: garbage collection looks at all that a process has."""
    code = "import json; from dgbatch.bench.dispatch import *; print(json.dumps(bench_dispatch(DispatchBench())))"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    told = json.loads(ran.stdout)
    assert (told["workers"], told["shards"]) == (1000, 20_000)
    assert told["decisions"]["all"]["calls"] > 200_000
    assert told["decisions"]["all"]["p99_ms"] < 0.1
    assert told["decisions"]["all"]["max_ms"] < 1.0
