"""The dashboards and rules on the real server, which scrapes a real job: every expression has data."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dgbatch.runner.metrics import METRICS
from tests.dashboards.expressions import ROOT, of_annotations, of_boards, of_rules, selectors
from tests.dashboards.server import Prometheus
from tests.fake_engine import fake_job

pytest.importorskip("promql_parser", reason="pip install promql-parser")
pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not there: apt-get install prometheus"
)

LIMIT_S = 90.0
JOB = "watched"
FILL_IN = {"job": JOB, "worker": ".*", "__rate_interval": "10s", "__range": "1h"}
# One row in eight is rejected, one engine fails once and is replaced.
ROWS_PER_S = 32  # two workers with eight canvases each, two steps a row on average
STEP_S = 2 * 8 / (2 * ROWS_PER_S)
# Enough work for every wait of the tests that watch it: the job must not end before they are done with it.
PROMPTS = [f"prompt {i}" + (" !reject" if i % 8 == 0 else "") for i in range(int(3 * LIMIT_S) * ROWS_PER_S)]


@dataclass
class Watched:
    """A job at work, and the Prometheus that scrapes it."""

    prometheus: Prometheus
    file: str  # of the job
    job: subprocess.Popen[bytes]
    seen: set[str] = field(default_factory=set)  # expressions that have had data

    def wait_for(self, condition: Callable[[], object], what: Callable[[], str]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert self.job.poll() in (None, -signal.SIGKILL), "the job has ended"
            assert time.monotonic() < deadline, what()
            time.sleep(0.25)

    def lacking(self, expressions: dict[str, str]) -> list[str]:
        """Those of the expressions (by where they stand) that have never had data."""
        for where, text in expressions.items():
            if where not in self.seen and self.prometheus.values(text):
                self.seen.add(where)
        return [where for where in expressions if where not in self.seen]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    job = fake_job(
        folder,
        PROMPTS,
        {"step_s": STEP_S, "orders": {"r0013": f"!raise={folder / 'raised'}"}},
        name=JOB,
        prompt={"template": "{{ prompt }}", "thinking": True},
        workers={"count": 2, "shard_rows": 16},
        metrics={"deadline_s": 3600},
    )
    with Prometheus(folder / "prometheus") as prometheus:
        process = submitted(job, prometheus)
        try:
            yield Watched(prometheus, job, process)
        finally:
            end(process)


def submitted(job: str, prometheus: Prometheus, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fake_cli", "submit", job],
        stdout=subprocess.DEVNULL,  # standard error is ours: pytest shows it with a test that failed
        cwd=ROOT,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DGBATCH_TARGETS": str(prometheus.targets), **environment},
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of it and of its Ray."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_every_expression_of_every_dashboard_has_data(watched: Watched) -> None:
    texts = {each.where: each.filled_in(FILL_IN) for each in of_boards()}
    assert len(texts) > 60
    watched.wait_for(lambda: not watched.lacking(texts), lambda: f"no data: {watched.lacking(texts)}")


def test_every_metric_and_its_help_arrive(watched: Watched) -> None:
    known = {metric.name for metric in METRICS}
    told = {name: each[0] for name, each in watched.prometheus.ask("metadata").items() if name.startswith("dgbatch_")}
    assert set(told) == known
    assert {metric.name: metric.help for metric in METRICS} == {name: each["help"] for name, each in told.items()}


def test_job_of_a_series_is_the_name_of_the_job(watched: Watched) -> None:
    series = watched.prometheus.ask("label/__name__/values", **{"match[]": f'{{job="{JOB}"}}'})
    assert {"dgbatch_rows_total", "up"} <= set(series)
    assert watched.prometheus.values('{exported_job!=""}') == {}


def test_every_part_of_every_rule_has_data(watched: Watched) -> None:
    """Of an alert that is silent the whole has none: each series that it asks for does."""
    parts: dict[str, str] = {}
    for each in of_rules():
        watched.prometheus.values(each.text)  # the server takes it
        found = [
            f"{selector.name}{{{','.join(as_written(matcher) for matcher in selector.matchers.matchers)}}}"
            for selector in selectors(each.text)
        ]
        assert found, each.where
        parts |= {f"{each.where}: {part}": part for part in found}
    watched.wait_for(lambda: not watched.lacking(parts), lambda: f"no data: {watched.lacking(parts)}")
    health = {
        rule["name"]: rule["health"] for group in watched.prometheus.ask("rules")["groups"] for rule in group["rules"]
    }
    assert len(health) == len(of_rules()) and set(health.values()) == {"ok"}


def test_job_at_work_raises_no_alert_but_the_one_for_its_bad_rows(watched: Watched) -> None:
    """While its engines were being loaded, DgbatchStalled was up: here alerts do not wait as they do elsewhere."""
    awaited = {"DgbatchFailingRows"}
    watched.wait_for(lambda: set(watched.prometheus.firing()) == awaited, lambda: str(watched.prometheus.firing()))


def test_killed_driver_is_missed_and_what_it_gave_up_on_is_told(watched: Watched) -> None:
    os.kill(watched.job.pid, signal.SIGKILL)
    awaited = {"DgbatchDriverGone", "DgbatchFinishedWithQuarantine"}
    watched.wait_for(lambda: awaited <= set(watched.prometheus.firing()), lambda: str(watched.prometheus.firing()))
    gone = watched.prometheus.firing()["DgbatchDriverGone"]
    assert gone["labels"]["job"] == JOB
    assert gone["annotations"]["summary"].startswith(f"{JOB}: its driver on 127.0.0.1:")
    for mark in of_annotations():
        assert watched.prometheus.values(mark.filled_in(FILL_IN)), mark.where


def test_resumed_job_clears_the_alarm_and_ends_with_the_numbers_of_the_dataset(watched: Watched) -> None:
    """The last page is read, too: a driver waits some seconds for who comes regularly."""
    end(watched.job)
    again = submitted(watched.file, watched.prometheus, DGBATCH_FAKE='{"step_s": 0}')
    try:
        assert again.wait(LIMIT_S) == 3, "complete, with quarantined rows"
    finally:
        end(again)
    watched.wait_for(
        lambda: "DgbatchDriverGone" not in watched.prometheus.firing(), lambda: str(watched.prometheus.firing())
    )
    (run,) = Path(watched.file).parent.glob("out")
    with duckdb.connect() as sql:
        ok, tokens = sql.sql(f"select count(*), sum(tokens) from '{run}/data/*.parquet'").fetchall()[0]
        ((quarantined,),) = sql.sql(f"select count(*) from '{run}/quarantine/*.parquet'").fetchall()
    assert ok + quarantined == len(PROMPTS) and quarantined == len(PROMPTS) // 8
    of_last_driver = (
        f'and on (instance) topk(1, last_over_time(dgbatch_last_commit_timestamp_seconds{{job="{JOB}"}}[5m]))'
    )
    last = {
        name: sum(watched.prometheus.values(f"last_over_time(dgbatch_{name}[5m]) {of_last_driver}").values())
        for name in ('tokens_total{kind!="prompt"}', 'run_state{state="completed"}')
    }
    assert list(last.values()) == [tokens, 1]
    table = {each.where: each.filled_in(FILL_IN) for each in of_boards() if "In this time range" in each.where}
    shown = [sum(watched.prometheus.values(text).values()) for text in list(table.values())[:3]]
    assert shown == [ok, len(PROMPTS), quarantined], "rows, expected, quarantined of the fleet's table"


def as_written(matcher: Any) -> str:
    sign = {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}[str(matcher.op).rpartition(".")[2]]
    return f'{matcher.name}{sign}"{matcher.value}"'
