"""What a report tells somebody to type makes the same run again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from dgbatch.runner.fingerprint import fingerprint
from dgbatch.runner.pages.recipe import recipe
from dgbatch.runner.plan import make_plan
from dgbatch.runner.spec import load_job
from tests.runner.conftest import MakeJob
from tests.runner.small_run import new_run

Rows = Callable[[int], pa.Table]


def test_the_job_of_the_page_is_the_job_of_the_run(make_job: MakeJob, some_rows: Rows, tmp_path: Path):
    spec = make_job(
        some_rows(4), "input.id=id", "accept.rules=[{equals: answer}]", "prompt.template={{ prompt }}: #1, then \"2\"",
        "generation.stop=['no', '3.10']", "generation.temperature_start=0.7", "output.columns=[n]",
        "retry.max_failed_ratio=0",
    )  # fmt: skip
    run = new_run(spec)
    elsewhere = tmp_path / "elsewhere" / "test.yaml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(recipe(run, []).job, encoding="utf-8")
    again = load_job(elsewhere, ["output.path=runs/test-again"])
    assert again.public() == {
        **spec.public(),
        "output": {**spec.public()["output"], "path": str(elsewhere.parent / "runs/test-again")},
    }
    assert fingerprint(again, make_plan(again)) == run.fingerprint


def test_a_secret_stays_a_name(make_job: MakeJob, some_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PLACE", str(tmp_path / "hidden"))
    run = new_run(make_job(some_rows(1), "output.path=${PLACE}/out"))
    assert "${PLACE}/out" in recipe(run, []).job
    assert "hidden" not in recipe(run, []).job


def test_commands_name_the_version_and_a_folder_of_their_own(make_job: MakeJob, some_rows: Rows):
    run = new_run(make_job(some_rows(1)))
    made = recipe(run, [])
    assert made.commands == (
        "pip install dgbatch==0",
        "dgbatch plan test.yaml",
        "dgbatch submit test.yaml --set output.path=runs/test-again",
        f"dgbatch diff {run.path} runs/test-again",
    )
    assert made.submitted == ""


def test_what_was_typed_last_is_kept_with_its_overrides(make_job: MakeJob, some_rows: Rows):
    events = [
        {"kind": "started", "command": "dgbatch submit a.yaml"},
        {"kind": "started", "command": "dgbatch submit a.yaml --set workers.count=2"},
        {"kind": "started"},
    ]
    assert recipe(new_run(make_job(some_rows(1))), events).submitted == "dgbatch submit a.yaml --set workers.count=2"


def test_an_endpoint_that_the_job_did_not_want_is_not_wanted_again(make_job: MakeJob, some_rows: Rows, tmp_path: Path):
    run = new_run(make_job(some_rows(4), "metrics.port=null"))
    (tmp_path / "again.yaml").write_text(recipe(run, ()).job)
    assert load_job(tmp_path / "again.yaml").metrics.port is None
