"""The page of /metrics: every metric once, as Prometheus reads it, with the values of its moment."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dgbatch.records import EngineStats
from dgbatch.runner import metrics
from dgbatch.runner.ledger import Tally
from dgbatch.runner.metering.moment import Moment, WorkerMoment
from dgbatch.runner.metrics import METRICS, page
from dgbatch.runner.sums import BOUNDS, Histogram, Sums

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.prom"
SUMS = Sums(
    revised_tokens=31,
    thinking_tokens=400,
    quarantined=(("null_prompt", 2), ("prompt_too_long", 1)),
    steps_per_canvas=Histogram.of(BOUNDS["steps_per_canvas"], [1, 2, 2, 7, 100]),
    tokens_per_forward=Histogram.of(BOUNDS["tokens_per_forward"], [0.5, 3.25, 300]),
    row_duration_s=Histogram.of(BOUNDS["row_duration_s"], [0.2, 0.25, 30]),
)
STATS = EngineStats(
    passes=10, tiles=25, shared_tokens=640, peak_bytes=1 << 30, seconds={"load": 2.5, "denoise": 30.0, "sample": 3.5}
)
MOMENT = Moment(
    job="demo",
    run="runs/demo",
    model="demo",
    checksum="0123456789ab",
    versions={"dgbatch": "0.1.0", "python": "3.11.7", "ray": "2.60.0"},
    started_at=1_763_700_000.25,
    expected=1000,
    shards={"committed": 3, "running": 2, "pending": 4, "given_up": 1},
    tally=Tally(3, 297, 3, 250, 12_000, 5_000, 310, 900, SUMS),
    commits=4,
    judged=True,
    last_commit_at=1_763_700_060.5,
    deadline_at=1_763_703_600.25,
    state="in_progress",
    commit_duration=Histogram.of(metrics.COMMIT_BOUNDS, [0.002, 0.002, 0.3, 60]),
    retries={"worker_lost": 2},
    restarts={"died": 1},
    eta_s=120.5,
    workers=(
        WorkerMoment("w0", "working", STATS, 4, 0.625, 0.4),
        WorkerMoment("w1", "idle", EngineStats(), 8, 0.0),
        WorkerMoment("w2", "starting"),
    ),
)


def values(moment: Moment) -> dict[str, float]:
    """Every sample of the page by its name and labels, as a parser other than ours reads it."""
    return dict(samples(moment))


def samples(moment: Moment) -> Iterator[tuple[str, float]]:
    for family in text_string_to_metric_families(page(moment).decode()):
        for sample in family.samples:
            labels = {name: value for name, value in sorted(sample.labels.items()) if name != "job"}
            assert sample.labels["job"] == moment.job
            yield sample.name + (str(labels) if labels else ""), sample.value


def test_golden_page_of_a_moment(update_golden: bool) -> None:
    written = page(MOMENT).decode()
    if update_golden:
        GOLDEN.write_text(written)
    assert written == GOLDEN.read_text(), "run: just golden"


def test_every_value_of_the_page_is_that_of_its_moment() -> None:
    seen = values(MOMENT)
    assert seen["dgbatch_rows_total{'status': 'ok'}"] == 297
    assert [seen[f"dgbatch_tokens_total{{'kind': '{kind}'}}"] for kind in metrics.KINDS] == [12_000, 4_600, 400]
    assert seen["dgbatch_steps_per_canvas_bucket{'le': '2.0'}"] == 3
    assert seen["dgbatch_steps_per_canvas_bucket{'le': '+Inf'}"] == seen["dgbatch_steps_per_canvas_count"] == 5
    assert seen["dgbatch_steps_per_canvas_sum"] == 112
    assert seen["dgbatch_row_duration_seconds_bucket{'le': '0.25'}"] == 2
    assert seen["dgbatch_quarantined_rows{'code': 'null_prompt'}"] == 2
    assert seen["dgbatch_workers{'state': 'working'}"] == 1
    assert seen["dgbatch_device_seconds_total{'phase': 'denoise', 'worker': 'w0'}"] == 30
    assert seen["dgbatch_run_state{'state': 'in_progress'}"] == 1
    assert seen["dgbatch_run_state{'state': 'completed'}"] == 0
    assert "dgbatch_roofline_ratio{'worker': 'w1'}" not in seen  # nobody knows it
    assert not any("w2" in name for name in seen)  # it has not loaded


def test_what_is_not_known_is_not_on_the_page() -> None:
    bare = replace(
        MOMENT,
        judged=False,
        last_commit_at=None,
        deadline_at=None,
        eta_s=None,
        workers=(),
        tally=Tally(),
        free_path=None,
    )
    seen = values(bare)
    absent = (
        "accepted",
        "last_commit",
        "deadline",
        "eta",
        "output_free",
        "device",
        "canvases_in_flight",
        "quarantined_",
    )
    assert not [name for name in seen if name.startswith(tuple(f"dgbatch_{part}" for part in absent))]
    assert seen["dgbatch_rows_total{'status': 'ok'}"] == 0  # a rate needs the zero


def test_free_space_and_age_are_those_of_now(tmp_path: Path) -> None:
    seen = values(replace(MOMENT, free_path=str(tmp_path), still_since=time.monotonic() - 7))
    assert seen["dgbatch_output_free_bytes"] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    assert 7 <= seen["dgbatch_queue_age_seconds"] < 60
    assert "dgbatch_output_free_bytes" not in values(replace(MOMENT, free_path=str(tmp_path / "gone")))


def test_every_metric_is_declared_once_and_well() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.name.startswith("dgbatch_") and metric.help.endswith(".") and "\n" not in metric.help
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.unit in (*metric.name.split("_"), "records", "pieces", "rows", "steps", "tokens", "workers", "1")
        assert ("worker" in metric.labels) == (metric.origin == "workers")
        assert set(metric.labels) <= {
            "status", "kind", "code", "state", "reason", "worker", "phase", "version", "python", "ray", "torch", "run",
            "model", "checksum",
        }  # fmt: skip
        assert metric.kind != "counter" or "Not counted: " in metric.help


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is missing: apt-get install prometheus")
def test_promtool_finds_nothing_to_say_of_the_page() -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=page(MOMENT), capture_output=True, env={**os.environ, "LC_ALL": "C"}
    )
    assert (checked.returncode, checked.stderr.decode()) == (0, "")
