"""A planted secret is looked for in everything that a run writes and prints."""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from dgbatch.errors import InputError, RunFailed
from dgbatch.runner import actors, retry
from dgbatch.runner import submit as steps
from dgbatch.runner.plan import make_plan
from dgbatch.runner.run_folder import Run
from dgbatch.runner.spec import hiding_secrets, load_job
from tests.cli.command import dgbatch
from tests.fake_engine import PATH, fake_job

SECRET = "hunter2-open-sesame"


@pytest.fixture
def job(tmp_path, monkeypatch, local_ray) -> str:
    """A job that needs the secret for its input and for its cluster; one of its rows is rejected, one fails."""
    monkeypatch.setattr(steps, "submit", functools.partial(steps.submit, engine=PATH))
    monkeypatch.setattr(retry, "retry", functools.partial(retry.retry, engine=PATH))
    monkeypatch.setenv("SECRET", SECRET)
    file = fake_job(
        tmp_path / "job", [*(f"prompt {n}" for n in range(10)), "!reject me", None],
        input={"path": str(tmp_path / "${SECRET}" / "prompts.parquet")},
        workers={"address": "ray://user:${SECRET}@head:10001"},
        output={"metrics": True, "duckdb": "run.duckdb"},
    )  # fmt: skip
    (tmp_path / SECRET).mkdir()
    os.rename(tmp_path / "job" / "prompts.parquet", tmp_path / SECRET / "prompts.parquet")
    return file


def where_it_stands(folder: Path) -> list[str]:
    """Files with the secret in their name, their bytes or, as bytes may be compressed, their rows."""
    found = []
    for path in folder.rglob("*"):
        text = str(path.relative_to(folder)).encode()
        if path.is_file():
            text += path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            text += f"{table.schema} {table.schema.metadata} {table.to_pylist()}".encode()
        if SECRET.encode() in text:
            found.append(str(path))
    return found


def ray_logs() -> Path:
    return Path(ray._private.worker._global_node.get_session_dir_path(), "logs")


def test_secret_is_nowhere_in_what_a_run_writes_and_prints(tmp_path, capfd, caplog, job):
    caplog.set_level(logging.DEBUG)
    done = dgbatch(capfd, "submit", job)
    assert done.code == 3, done.err
    run = str(tmp_path / "job" / "out")
    said = [done, dgbatch(capfd, "submit", job, "--json"), dgbatch(capfd, "verify", run, "--json")]
    said += [dgbatch(capfd, command, run) for command in ("status", "verify", "logs")]
    said += [dgbatch(capfd, "export", run, str(tmp_path / "job" / f"all.{end}")) for end in ("jsonl", "parquet")]
    said += [dgbatch(capfd, "retry", run, *option) for option in (["--dry-run"], ["--json"], [])]
    assert [left.code for left in said] == [3, 3, 0, 0, 0, 0, 0, 0, 0, 3, 3]
    assert Run.open(run).info["spec"]["workers"]["address"] == "ray://user:${SECRET}@head:10001"

    assert where_it_stands(tmp_path / "job") == []
    assert where_it_stands(ray_logs()) == []
    assert not any(SECRET in left.out + left.err for left in said)
    assert SECRET not in caplog.text
    # The search does find one: in the folder that it names.
    assert where_it_stands(tmp_path) == [str(tmp_path / SECRET), str(tmp_path / SECRET / "prompts.parquet")]


def test_secret_is_in_no_error(tmp_path, capfd, job):
    run = str(tmp_path / "job" / "out")
    assert dgbatch(capfd, "submit", job).code == 3
    os.remove(tmp_path / SECRET / "prompts.parquet")
    for arguments in (("plan", job), ("submit", job, "--json"), ("verify", run)):
        left = dgbatch(capfd, *arguments)
        assert left.code == 2, left
        assert SECRET not in left.out + left.err
        assert "${SECRET}/prompts.parquet" in left.err
    (tmp_path / SECRET / "prompts.parquet").write_bytes(b"PAR1 but no more")
    for command in ("plan", "submit"):
        damaged = dgbatch(capfd, command, job)
        assert damaged.code == 2 and "${SECRET}/prompts.parquet: not readable as parquet" in damaged.err
        assert SECRET not in damaged.err


def test_errors_and_events_of_a_run_name_the_variable(tmp_path, job):
    spec = load_job(job)
    assert SECRET in spec.input.path and SECRET not in repr(spec)
    with pytest.raises(RunFailed) as caught, hiding_secrets(spec):
        raise RunFailed(f"workers.address: Ray did not start at {spec.workers.address!r}")
    assert str(caught.value) == "workers.address: Ray did not start at 'ray://user:${SECRET}@head:10001'"
    assert caught.value.__suppress_context__ and caught.value.__cause__ is None  # no traceback prints the first one

    plan = make_plan(spec)
    run = Run.create(str(tmp_path / "run"), spec.public(), plan, "f", {}, {})
    run.event("worker_lost", reason=f"cannot read {spec.input.path}", shards=[1])
    assert run.events()[0]["reason"] == f"cannot read {tmp_path}/${{SECRET}}/prompts.parquet"
    assert where_it_stands(tmp_path / "run") == []


def test_last_words_of_a_worker_are_kept_without_the_secret(tmp_path, monkeypatch, local_ray):
    """They go into attempts.json, and with a row that kills into its quarantine file."""
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.setattr(actors, "ray_reason", lambda error: f"cannot reach {SECRET}")
    job = fake_job(
        tmp_path / "job", ["fine", "!die"], workers={"address": "ray://user:${SECRET}@head:10001"},
        retry={"shard_attempts": 1, "max_failed_ratio": 1.0},
    )  # fmt: skip
    noted: list[str] = []
    note = Run.note_attempts
    monkeypatch.setattr(Run, "note_attempts", lambda run, tries: noted.append(repr(tries)) or note(run, tries))
    done = steps.submit(job, engine=PATH)
    (row,) = (row for path in Path(done.run.path, "quarantine").iterdir() for row in pq.read_table(path).to_pylist())
    assert "cannot reach ${SECRET}" in row["error_message"]
    assert any("cannot reach ${SECRET}" in line for line in noted) and not any(SECRET in line for line in noted)
    assert where_it_stands(tmp_path / "job") == []


def test_error_without_a_secret_stays_the_same_object(job):
    error = InputError("nothing hidden here")
    with pytest.raises(InputError) as caught, hiding_secrets(load_job(job)):
        raise error
    assert caught.value is error


def test_token_of_ray_is_in_the_environment_and_never_in_a_run(tmp_path, capfd, monkeypatch, job):
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    assert dgbatch(capfd, "submit", job).code == 3
    assert where_it_stands(tmp_path / "job") == []


def test_arrow_run_holds_no_secret_either(tmp_path, capfd, job):
    assert dgbatch(capfd, "submit", job, "--set", "output.format=arrow", "--set", "output.path=arrow").code == 3
    for path in (tmp_path / "job" / "arrow").rglob("*.arrow"):
        with pa.ipc.open_file(str(path)) as reader:
            assert SECRET not in f"{reader.schema.metadata} {reader.read_all().to_pylist()}"
