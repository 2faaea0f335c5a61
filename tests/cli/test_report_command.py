"""`dgbatch report`, and the page that `submit` and `retry` leave behind."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from dgbatch.runner import retry as again
from dgbatch.runner import submit as steps
from dgbatch.runner.catalog import sql
from dgbatch.runner.run_folder import Run
from tests.cli.command import dgbatch
from tests.fake_engine import PATH, fake_job
from tests.runner.made_up import made_up_job, made_up_run


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, local_ray: None) -> None:
    monkeypatch.setattr(steps, "submit", functools.partial(steps.submit, engine=PATH))
    monkeypatch.setattr(again, "retry", functools.partial(again.retry, engine=PATH))


def test_the_page_lies_in_the_run_and_json_tells_its_numbers(tmp_path, capfd):
    run = made_up_run(made_up_job(tmp_path, 200))
    left = dgbatch(capfd, "report", run.path, "--price-per-gpu-hour", "2", "--json")
    assert left.code == 0
    page = Path(run.path, "_dgbatch", "report.html")
    told = left.json
    assert (told["file"], told["bytes"]) == (str(page), page.stat().st_size)
    assert told["rows"] == {"expected": 200, "ok": 198, "quarantined": 2}
    assert told["tokens"] == sql(run, "select sum(tokens) as n from completions")["n"][0].as_py()
    assert told["price"] == pytest.approx(2 * told["gpu_hours"], abs=1e-5)
    assert told["quarantined"] == {"prompt_too_long": 2}
    assert "wrote " in left.err


def test_a_file_can_be_named(tmp_path, capfd):
    run = made_up_run(made_up_job(tmp_path, 200))
    left = dgbatch(capfd, "report", run.path, "--out", str(tmp_path / "page.html"))
    assert (left.code, left.out) == (0, "")
    assert (tmp_path / "page.html").exists()
    assert not Path(run.path, "_dgbatch", "report.html").exists()


def test_what_cannot_be_reported_on_is_said_in_one_line(tmp_path, capfd):
    left = dgbatch(capfd, "report", str(tmp_path))
    assert (left.code, left.err.count("\n")) == (2, 1)
    assert "no run here" in left.err
    run = made_up_run(made_up_job(tmp_path, 200))
    (tmp_path / "thesis.txt").write_text("mine")
    left = dgbatch(capfd, "report", run.path, "--out", str(tmp_path / "thesis.txt"))
    assert left.code == 2
    assert "is no report of dgbatch" in left.err


def test_a_page_is_opened_when_asked_for(tmp_path, capfd, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    run = made_up_run(made_up_job(tmp_path, 200))
    assert dgbatch(capfd, "report", run.path, "--open").code == 0
    assert opened == [Path(run.path, "_dgbatch", "report.html").as_uri()]


def test_submit_and_retry_leave_the_page_and_say_where(tmp_path, capfd, fake):
    lacking = tmp_path / "mended"
    job = fake_job(tmp_path, ["one", "two", f"three !reject !without={lacking}"])
    left = dgbatch(capfd, "submit", job, "--set", "workers.count=1")
    assert left.code == 3
    page = tmp_path / "out" / "_dgbatch" / "report.html"
    assert "report" in left.out
    assert "_dgbatch/report.html" in left.out.replace("\n", "").replace("│", "").replace(" ", "")
    text = page.read_text()
    assert "in 3 = ok 2 + quarantined 1" in text
    assert f"dgbatch submit {job} --set workers.count=1" in text
    events = Run.open(str(tmp_path / "out")).events()
    assert next(each["command"] for each in events if each["kind"] == "started").endswith("--set workers.count=1")

    lacking.touch()
    assert dgbatch(capfd, "retry", str(tmp_path / "out")).code == 0
    assert "in 3 = ok 3 + quarantined 0" in page.read_text()
    assert dgbatch(capfd, "verify", str(tmp_path / "out")).code == 0
    left = dgbatch(capfd, "submit", job, "--set", "workers.count=1")
    assert (left.code, "already complete" in left.out, "report" in left.out) == (0, True, True)
