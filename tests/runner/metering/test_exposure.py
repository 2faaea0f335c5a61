"""Metrics leave the process in every way that is asked for, and whatever fails of it costs the job nothing."""

from __future__ import annotations

import json
import os
import socket
import urllib.request
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dgbatch.errors import JobError, LocationError, RunCancelled, RunFailed, RunLocked
from dgbatch.runner.layout import METRICS
from dgbatch.runner.metering.exposure import Exposure
from dgbatch.runner.metering.metrics_server import MetricsServer
from dgbatch.runner.metering.targets import VARIABLE
from dgbatch.runner.progress import Progress
from dgbatch.runner.run_folder import Run
from dgbatch.runner.spec import JobSpec
from dgbatch.runner.storage.lock import lock
from tests.runner.conftest import MakeJob
from tests.runner.metering.test_pushgateway import free_port, gateway, seen
from tests.runner.small_run import commit_all, new_run

__all__ = ["gateway"]  # a fixture

Rows = Callable[[int], pa.Table]


@pytest.fixture
def job(make_job: MakeJob, some_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., JobSpec]:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "targets"))
    fixed = ("input.id=id", "workers.shard_rows=4", "generation.samples=2")
    return lambda *overrides: make_job(some_rows(10), *fixed, *overrides)


class Shown(list[Progress]):
    def __call__(self, progress: Progress) -> None:
        self.append(progress)

    @property
    def notes(self) -> list[str]:
        return [each.note for each in self if each.note]


def expose(spec: JobSpec, inside: Callable[[Exposure, Run], Any] = lambda exposure, run: None) -> tuple[Run, Shown]:
    """A submit without workers: a run that is done when it begins."""
    run, shown = commit_all(new_run(spec), bad=lambda row_id: row_id == "r3"), Shown()
    with Exposure(spec, shown, run.path) as exposure, exposure.of(run, run.ledger()):
        exposure.tell(Progress("in_progress", spec.name, run.path))
        inside(exposure, run)
    return run, shown


def page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def told(run: Run, kind: str = "metrics_failed") -> list[dict[str, Any]]:
    return [event for event in run.events() if event["kind"] == kind]


def test_a_job_is_scraped_where_people_and_prometheus_are_told(job: Callable[..., JobSpec], tmp_path: Path) -> None:
    pages: list[str] = []

    def look(exposure: Exposure, run: Run) -> None:
        (file,) = (tmp_path / "targets").iterdir()
        assert file.name == f"test-{os.getpid()}.json"
        (target,) = json.loads(file.read_text())[0]["targets"]
        assert exposure.url == f"http://{target}/metrics"
        pages.append(page(exposure.url))

    run, shown = expose(job(), look)
    assert 'dgbatch_rows_total{job="test",status="ok"} 18.0' in pages[0]
    assert 'dgbatch_quarantined_rows{code="prompt_too_long",job="test"} 2.0' in pages[0]
    assert 'dgbatch_run_state{job="test",state="in_progress"} 1.0' in pages[0]
    (event,) = told(run, "metrics")
    assert shown[0].note == f"metrics at {event['url']}" and shown[1].metrics_url == event["url"]
    last = run.folder.get(METRICS).decode()
    assert 'dgbatch_run_state{job="test",state="completed"} 1.0' in last
    assert list((tmp_path / "targets").iterdir()) == [] and told(run) == []
    with pytest.raises(OSError, match="refused"):
        page(event["url"])


@pytest.mark.parametrize(
    ("error", "state"),
    [(RunFailed("x"), "failed"), (RunCancelled("x"), "cancelled"), (KeyboardInterrupt(), "cancelled")],
)
def test_the_last_page_says_how_it_ended(job: Callable[..., JobSpec], error: BaseException, state: str) -> None:
    def fail(exposure: Exposure, run: Run) -> None:
        raise error

    spec = job("metrics.port=null")
    with pytest.raises(type(error)):
        expose(spec, fail)
    last = Run.open(spec.output.path).folder.get(METRICS).decode()
    assert f'dgbatch_run_state{{job="test",state="{state}"}} 1.0' in last
    assert 'state="completed"} 1.0' not in last


def test_without_an_endpoint_nobody_is_told_of_one(job: Callable[..., JobSpec], tmp_path: Path) -> None:
    run, shown = expose(job("metrics.port=null"))
    assert told(run, "metrics") == [] and shown.notes == [] and shown[0].metrics_url == ""
    assert not (tmp_path / "targets").exists() and run.folder.exists(METRICS)


def test_a_job_that_is_over_at_once_is_on_its_pushgateway(job: Callable[..., JobSpec], gateway: str) -> None:
    run, _ = expose(job("metrics.port=null", f"metrics.push={gateway}", "name=pushed"))
    lines = [line for line in seen(gateway) if 'job="pushed"' in line]
    assert 'dgbatch_rows_total{instance="",job="pushed",status="ok"} 18' in lines
    assert 'dgbatch_run_state{instance="",job="pushed",state="completed"} 1' in lines
    assert told(run) == []


def test_a_gateway_that_is_away_is_told_once_and_costs_nothing_else(job: Callable[..., JobSpec]) -> None:
    port = free_port()

    def work_on(exposure: Exposure, run: Run) -> None:
        for _ in range(3):
            assert exposure._pushes is not None
            exposure._pushes._push()
            exposure.tell(Progress("in_progress", "test", run.path, note="busy"))

    run, shown = expose(job("metrics.port=null", f"metrics.push=http://127.0.0.1:{port}"), work_on)
    (event,) = told(run)
    assert event["reason"].startswith(f"metrics.push: http://127.0.0.1:{port}/metrics/job/test: ")
    assert "Connection refused" in event["reason"]
    assert [note for note in shown.notes if note != "busy"] == [event["reason"]]


def test_files_that_cannot_be_written_are_told(job: Callable[..., JobSpec], tmp_path: Path) -> None:
    (tmp_path / "targets").write_text("in the way")
    (tmp_path / "node").write_text("in the way")
    run, shown = expose(job("metrics.textfile=node/x.prom"))
    first, last = (event["reason"] for event in told(run))
    assert first.startswith("Prometheus will not find this job by itself: ") and first in shown.notes
    assert last.startswith(f"metrics.textfile: {tmp_path}/node/x.prom cannot be written: ")


def test_no_secret_is_on_the_page(job: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WHERE", f"{tmp_path}/s3cret")
    monkeypatch.setenv("PASSWORD", "pa55word")
    url = f"http://me:${{PASSWORD}}@127.0.0.1:{free_port()}"
    run, _ = expose(job("output.path=${WHERE}/out", f"metrics.push={url}", "model.checkpoint=a/b"))
    last = run.folder.get(METRICS).decode()
    assert 'model="a/b",run="${WHERE}/out"' in last
    everything = last + json.dumps(run.events()) + json.dumps(run.info)
    assert "s3cret" not in last and "pa55word" not in everything


def test_a_port_that_the_driver_of_this_run_has_means_that_the_run_is_locked(job: Callable[..., JobSpec]) -> None:
    run = new_run(job())
    with socket.create_server(("127.0.0.1", 0)) as other:
        spec = job(f"metrics.port={other.getsockname()[1]}")
        with lock(run.path), pytest.raises(RunLocked):
            Exposure(spec, Shown(), run.path)
        with pytest.raises(JobError, match="Address already in use"):
            Exposure(spec, Shown(), run.path)


@pytest.mark.parametrize("error", [None, RunFailed("a shard failed")])
def test_a_signal_cuts_the_wait_for_a_reader_short_and_nothing_else(
    job: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch, error: RunFailed | None
) -> None:
    def signalled(server: MetricsServer, since: float) -> None:
        raise RunFailed("told to stop (SIGTERM)")

    def inside(exposure: Exposure, run: Run) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(MetricsServer, "let_read", signalled)
    with nullcontext() if error is None else pytest.raises(RunFailed, match="a shard failed"):
        expose(job(), inside)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("metrics.port=65536", "metrics.port: 65536"),
        ("metrics.port=-1", "metrics.port: -1"),
        ("metrics.port=http", "metrics.port: 'http' is text; it takes a whole number"),
        ("metrics.deadline_s=0", "metrics.deadline_s: 0 must be more than 0."),
        ("metrics.textfile=x.txt", "does not end in .prom, so node_exporter would not read it."),
        ("metrics.textfile=s3://b/x.prom", "metrics.textfile: node_exporter reads a disk, not a store. Give a path."),
        ("metrics.push=gateway:9091", "metrics.push: it takes the URL of a Pushgateway, such as http://gateway:9091."),
        ("metrics.push=ftp://gateway", "metrics.push: it takes the URL of a Pushgateway"),
        ("metrics.push=http://gateway/?x=1", "metrics.push: it takes the URL of a Pushgateway"),
        ("metrics.push=http://gateway:port", "metrics.push: it takes the URL of a Pushgateway"),
        ("metrics.push=http://me:secret@gateway", "metrics.push: a password stands in the URL"),
        ("metrics.push=http://${NOBODY}@gateway", "metrics.push: the environment variable NOBODY is not set."),
        ("metrics.colour=red", "metrics.colour: unknown key. metrics has: port, host, push, textfile, deadline_s."),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(job: Callable[..., JobSpec], override: str, says: str) -> None:
    with pytest.raises((LocationError, Exception)) as caught:
        job(override)
    assert says in str(caught.value) and "secret" not in str(caught.value)
    assert caught.value.exit_code == 2  # type: ignore[attr-defined]


def test_nothing_of_it_decides_what_a_run_is(job: Callable[..., JobSpec]) -> None:
    spec = job()
    run = new_run(spec)
    changed = {"port": None, "host": "::1", "push": "http://x", "textfile": "/x.prom", "deadline_s": 5.0}
    other = spec.model_copy(update={"metrics": spec.metrics.model_copy(update=changed)})
    from dgbatch.runner.fingerprint import fingerprint

    assert fingerprint(other, replace(run.plan)) == run.fingerprint


def test_a_complaint_at_the_end_holds_no_secret_of_this_submit(
    job: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = commit_all(new_run(job()))  # its first submit pushed nowhere
    monkeypatch.setenv("TOKEN", "t0ken")
    spec = job("metrics.port=null", f"metrics.push=http://127.0.0.1:{free_port()}/${{TOKEN}}")
    with Exposure(spec, Shown(), run.path) as exposure, exposure.of(run, run.ledger()):
        pass
    (event,) = told(run)
    assert "/${TOKEN}/metrics/job/test: " in event["reason"]
