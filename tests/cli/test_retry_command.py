from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from dgbatch.runner import retry, submit
from tests.cli.command import dgbatch
from tests.fake_engine import PATH, fake_job


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None, capfd: pytest.CaptureFixture[str]) -> str:
    """A complete run; r0000 comes through when the file `mended` is there, r0001 never does."""
    for module in (submit, retry):
        name = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(module, name, functools.partial(getattr(module, name), engine=PATH))
    prompts = [f"!reject !without={tmp_path / 'mended'}", None, "fine"]
    assert dgbatch(capfd, "submit", fake_job(tmp_path, prompts, retry={"max_failed_ratio": 1.0})).code == 3
    return str(tmp_path / "out")


def test_retry_says_what_came_through_and_proves_the_whole(run, tmp_path, capfd):
    (tmp_path / "mended").touch()
    left = dgbatch(capfd, "retry", run)
    assert left.code == 3
    first, second = left.out.splitlines()
    assert first.startswith("2 rows run again in 0:")
    assert first.endswith(": 1 came through, 1 row in quarantine now")
    assert second == "verified: in 3 = ok 2 + quarantined 1, missing 0, duplicate 0, checksum errors 0"
    assert dgbatch(capfd, "verify", run).code == 0


def test_retry_as_json(run, tmp_path, capfd):
    (tmp_path / "mended").touch()
    left = dgbatch(capfd, "retry", run, "--code", "prompt_too_long", "--json")
    assert left.code == left.json["exit_code"] == 3
    assert (left.json["retried"], left.json["mended"]) == (1, 1)
    assert left.json["rows"] == {"expected": 3, "ok": 2, "quarantined": 1}


def test_retry_as_json_lines_ends_with_the_object_of_json(run, tmp_path, capfd):
    (tmp_path / "mended").touch()
    left = dgbatch(capfd, "retry", run, "--json-lines")
    lines = [json.loads(line) for line in left.out.splitlines()]
    assert {line["state"] for line in lines[:-1]} <= {"validating", "in_progress", "finalizing"} and len(lines) > 1
    assert (lines[-1]["exit_code"], lines[-1]["retried"], lines[-1]["mended"]) == (3, 2, 1)


def test_dry_run_counts_by_code_and_changes_nothing(run, capfd):
    left = dgbatch(capfd, "retry", run, "--dry-run")
    assert left.code == 0
    assert left.out.splitlines() == [
        "        1  prompt_too_long",
        "        1  null_prompt",
        "2 rows in 1 shard would be run again",
    ]
    left = dgbatch(capfd, "retry", run, "--dry-run", "--code", "null_prompt", "--json")
    assert left.json == {"run": run, "quarantined": {"prompt_too_long": 1, "null_prompt": 1}, "would_retry": 1}
    assert Path(run, "_SUCCESS").exists()


def test_retry_of_nothing_says_so(tmp_path, monkeypatch, local_ray, capfd):
    monkeypatch.setattr(submit, "submit", functools.partial(submit.submit, engine=PATH))
    assert dgbatch(capfd, "submit", fake_job(tmp_path, ["a"])).code == 0
    for option in ([], ["--dry-run"]):
        left = dgbatch(capfd, "retry", str(tmp_path / "out"), *option)
        assert left.code == 0
        assert left.out.splitlines()[0] in ("0 rows in quarantine: nothing to retry", "0 rows would be run again")


def test_unknown_code_is_refused_with_those_that_are_there(run, capfd):
    left = dgbatch(capfd, "retry", run, "--code", "typo")
    assert left.code == 2
    assert "--code typo: no row in quarantine has this error code. It holds: prompt_too_long (1), null_prompt (1)." in (
        left.err
    )


def test_retry_where_no_run_is(tmp_path, capfd):
    assert dgbatch(capfd, "retry", str(tmp_path)).code == 2
