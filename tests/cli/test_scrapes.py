"""The metrics of real submits: what a scrape says while they run, after a kill, and what is left when they are over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dgbatch.runner.metering.targets import VARIABLE
from dgbatch.runner.run_folder import Run
from tests.cli.command import dgbatch
from tests.fake_engine import fake_job

LIMIT_S = 120.0
ROOT = Path(__file__).parents[2]
Values = dict[str, float]


class Submit:
    """A real `dgbatch submit --json` on the fake engine, in a process of its own."""

    def __init__(self, folder: Path, job: str):
        self.targets = folder / "targets"
        self.log = (folder / "log").open("a+")
        env = {**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: str(self.targets)}
        command = [sys.executable, "-m", "tests.fake_cli", "submit", job, "--json"]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, cwd=ROOT, env=env)

    @property
    def target(self) -> str | None:
        """What Prometheus would be told to scrape."""
        for file in self.targets.glob(f"*-{self.process.pid}.json"):
            return str(json.loads(file.read_text())[0]["targets"][0])
        return None

    def until(self, condition: Callable[[Values], object]) -> Values:
        """The first scrape of which this is true."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            assert self.process.poll() is None and time.monotonic() < deadline, self.said()
            if (target := self.target) and condition(seen := scrape(target)):
                return seen
            time.sleep(0.05)

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def end(self) -> int:
        return self.process.wait(LIMIT_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def scrape(target: str) -> Values:
    with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
        return parsed(answer.read().decode())


def parsed(page: str) -> Values:
    """Values by name and what the labels say: dgbatch_rows_total,ok."""
    found: Values = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = [sample.labels[name] for name in sorted(sample.labels) if name != "job"]
            found[",".join([sample.name, *labels])] = sample.value
    return found


def dataset(run: Path) -> Values:
    """The same totals by SQL, out of the files that commit records name."""
    ledger = Run.open(str(run)).ledger()
    data = [str(run / file.name) for file in ledger.data]
    lost = [str(run / file.name) for file in ledger.quarantine]
    rows, accepted, prompt, tokens, canvases, steps, revised, per_forward, quick = duckdb.sql(
        f"""select count(*), sum(accepted::int), sum(prompt_tokens), sum(tokens), sum(canvases), sum(denoise_steps),
        sum(revised_tokens), sum(tokens / denoise_steps), count(*) filter (denoise_steps <= 2)
        from read_parquet({data})"""
    ).fetchall()[0]
    codes = duckdb.sql(f"select error_code, count(*) from read_parquet({lost}) group by 1").fetchall()
    thinking = 2 * rows  # of each row of the fake engine
    return {
        "dgbatch_rows_total,ok": rows,
        "dgbatch_rows_total,quarantined": sum(count for _, count in codes),
        **{f"dgbatch_quarantined_rows,{code}": count for code, count in codes},
        "dgbatch_accepted_rows_total": accepted,
        "dgbatch_tokens_total,prompt": prompt,
        "dgbatch_tokens_total,generated": tokens - thinking,
        "dgbatch_tokens_total,thinking": thinking,
        "dgbatch_canvases_total": canvases,
        "dgbatch_denoise_steps_total": steps,
        "dgbatch_revised_tokens_total": revised,
        "dgbatch_steps_per_canvas_sum": steps,
        "dgbatch_steps_per_canvas_count": canvases,
        "dgbatch_steps_per_canvas_bucket,2.0": quick,
        "dgbatch_tokens_per_forward_count": rows,
        "dgbatch_tokens_per_forward_sum": pytest.approx(per_forward, abs=1e-6 * rows),
        "dgbatch_row_duration_seconds_count": rows,
        "dgbatch_commits_total": len(ledger.counted),
    }


def shown(seen: Values, expected: Values) -> Values:
    return {name: seen[name] for name in expected}


@pytest.fixture
def submits(tmp_path: Path) -> Iterator[Callable[[str], Submit]]:
    started: list[Submit] = []

    def submit(job: str) -> Submit:
        started.append(Submit(tmp_path, job))
        return started[-1]

    yield submit
    for each in started:
        each.kill()
        each.log.close()


def test_totals_are_those_of_the_dataset_after_the_driver_was_killed_and_when_all_is_done(tmp_path, submits):
    prompts = ["!reject", None, *(f"prompt {i}" for i in range(38))]
    job = fake_job(
        tmp_path, prompts, {"step_s": 0.2}, prompt={"thinking": True},
        output={"metrics": True}, metrics={"deadline_s": 3600, "textfile": "node/fake.prom"},
    )  # fmt: skip
    run = tmp_path / "out"
    first = submits(job)
    before = first.until(lambda seen: seen["dgbatch_commits_total"] and seen["dgbatch_workers,working"])
    assert before["dgbatch_rows_expected"] == 40
    assert before["dgbatch_run_state,in_progress"] == 1 and before["dgbatch_run_state,completed"] == 0
    assert before["dgbatch_canvases_in_flight,w0"] == 4
    assert 0 < before["dgbatch_tile_occupancy_ratio,w0"] <= 1
    assert before["dgbatch_roofline_ratio,w0"] == pytest.approx(0.5)
    assert before["dgbatch_device_seconds_total,denoise,w0"] > 0
    assert sum(before[f"dgbatch_shards,{state}"] for state in ("pending", "running", "committed")) == 5
    assert before["dgbatch_deadline_timestamp_seconds"] == before["dgbatch_start_timestamp_seconds"] + 3600
    (stale,) = first.targets.iterdir()
    first.kill()

    committed = dataset(run)
    assert 0 < committed["dgbatch_rows_total,ok"] < 38
    (tmp_path / "checkpoint" / "fake.json").write_text(json.dumps({"step_s": 0.05, "load_s": 2.0}))
    second = submits(job)
    after = second.until(lambda seen: seen["dgbatch_workers,starting"])  # nothing is done again yet
    assert shown(after, committed) == committed
    assert after["dgbatch_start_timestamp_seconds"] == before["dgbatch_start_timestamp_seconds"]
    assert not stale.exists()
    assert second.end() == 3, second.said()

    whole = dataset(run)
    assert (whole["dgbatch_rows_total,ok"], whole["dgbatch_rows_total,quarantined"]) == (38, 2)
    last = parsed((run / "_dgbatch" / "metrics.prom").read_text())
    assert shown(last, whole) == whole
    assert last["dgbatch_run_state,completed"] == 1 and last["dgbatch_shards,committed"] == 5
    assert not [name for name in last if "w0" in name.split(",")]
    assert (tmp_path / "node" / "fake.prom").read_text() == (run / "_dgbatch" / "metrics.prom").read_text()
    assert list(second.targets.iterdir()) == []
    (told,) = [event for event in Run.open(str(run)).events() if event["kind"] == "worker_stats"]
    assert told["worker"] == "w0" and told["seconds"]["load"] >= 2 and told["roofline"] == 0.5
    assert 0 < told["denoise_steps"] < whole["dgbatch_denoise_steps_total"]


def test_series_of_a_worker_that_is_killed_are_gone_and_its_loss_is_counted(tmp_path, submits):
    prompts = [f"prompt {i}" for i in range(60)]
    job = fake_job(tmp_path, prompts, {"step_s": 0.5, "load_s": 1.0}, workers={"count": 2, "shard_rows": 4})
    submit = submits(job)
    submit.until(lambda seen: seen["dgbatch_workers,working"] == 2)
    ready = [event for event in Run.open(str(tmp_path / "out")).events() if event["kind"] == "worker_ready"]
    pid = next(int(event["where"].rsplit(":", 1)[1]) for event in ready if event["worker"] == "w1")
    os.kill(pid, signal.SIGKILL)
    lost = submit.until(lambda seen: seen["dgbatch_worker_restarts_total,died"])
    assert "dgbatch_canvases_in_flight,w1" not in lost and "dgbatch_canvases_in_flight,w0" in lost
    assert lost["dgbatch_retries_total,worker_lost"] >= 1
    assert lost["dgbatch_workers,working"] == 1
    back = submit.until(lambda seen: "dgbatch_canvases_in_flight,w1" in seen)
    assert back["dgbatch_worker_restarts_total,died"] == 1


def test_an_endpoint_that_cannot_be_had_ends_the_submit_before_it_begins(tmp_path, capfd):
    job = fake_job(tmp_path, ["a"], model={"checkpoint": "demo"})
    left = dgbatch(capfd, "submit", job, "--set", "metrics.host=203.0.113.7")
    assert left.code == 2
    assert "metrics.host: 203.0.113.7 cannot be listened on" in left.err and "Traceback" not in left.err
    assert not (tmp_path / "out" / "_dgbatch" / "run.json").exists()
