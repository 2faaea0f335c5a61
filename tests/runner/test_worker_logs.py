"""What workers said, found in the run: also what they said last, however they died."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from dgbatch.errors import CheckpointError, RunFailed
from dgbatch.runner import submit as steps
from dgbatch.runner.layout import LOGS
from dgbatch.runner.logs import process_log
from dgbatch.runner.logs.log_reader import Logs, Wanted
from dgbatch.runner.run_folder import Run
from tests.fake_engine import PATH, fake_job
from tests.local_ray import local_ray

__all__ = ["local_ray"]

pytestmark = pytest.mark.usefixtures("local_ray")

SECRET = "hunter2-open-sesame"


def lines(run: Run, worker: str = "", **wanted) -> list[dict]:
    return list(Logs(run).lines(Wanted(frozenset([worker] if worker else []), **wanted)))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A run whose only worker spoke and was killed, spoke and aborted, raised, and was fine."""
    folder = tmp_path_factory.mktemp("logs")
    prompts = [
        "fine", f"!say=first-{SECRET} !kill={folder / 'killed'}", f"!abort={folder / 'aborted'}",
        f"!raise={folder / 'raised'}", "fine too",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET", SECRET)
        job = fake_job(
            folder, prompts, workers={"shard_rows": 1, "canvases": 1, "address": "ray://user:${SECRET}@head:10001"}
        )
        return steps.submit(job, engine=PATH).run


def test_last_words_before_a_sigkill_are_there_in_whatever_way_they_were_said(run: Run):
    said = "\n".join(line["message"] for line in lines(run, "w0"))
    for way in ("logged", "warned", "printed", "native"):
        assert f"{way} first-${{SECRET}}" in said
    logged, *_ = (line for line in lines(run, "w0") if line["message"].startswith("logged first"))
    assert (logged["level"], logged["logger"]) == ("warning", "some.library")
    assert 1 in logged["shards"]


def test_traceback_of_an_engine_that_raises_is_found_with_all_ids(run: Run):
    (failed,) = lines(run, "w0", level="critical")
    assert failed["trace"].startswith("Traceback (most recent call last):")
    assert 'raise RuntimeError("fake device error")\nRuntimeError: fake device error' in failed["trace"]
    assert (failed["job"], failed["run"], failed["worker"]) == ("fake", run.path, "w0")
    assert 3 in failed["shards"]  # those in its hands
    assert failed["submit"] == Logs(run).submits[0]
    assert failed["pid"] != os.getpid()


def test_stack_of_a_process_that_aborted_is_there(run: Run):
    said = [line["message"] for line in lines(run, "w0") if line["logger"] == "output"]
    assert any("Aborted" in line for line in said)
    assert any(re.search(r"fake_engine\.py.*in _obey", line) for line in said)


def test_lines_come_by_time_with_the_events_among_them(run: Run):
    found = lines(run)
    assert [line["at"] for line in found] == sorted(line["at"] for line in found)
    assert len({(line["submit"]) for line in found}) == 1
    kinds = [line["message"].split()[0] for line in found if line["logger"] == "events"]
    assert (kinds[0], kinds[-1]) == ("started", "completed")
    assert kinds.count("worker") == len([event for event in run.events() if event["kind"].startswith("worker")])
    driver = [line["message"] for line in found if line["worker"] == "driver"]
    assert any(message.startswith("w0 gets shard 0") for message in driver)
    assert "shard 0 by w0 committed" in driver


def test_no_file_of_the_log_and_nothing_on_the_machine_holds_the_secret_or_is_left_behind(run: Run):
    written = b"".join(path.read_bytes() for path in Path(run.path, LOGS).iterdir())
    assert SECRET.encode() not in written and b"native first-${SECRET}" in written
    assert left_on_this_machine(run.path) == []


def left_on_this_machine(path: str) -> list[Path]:
    spool = hashlib.sha256(path.encode()).hexdigest()[:16]
    return list(Path(tempfile.gettempdir(), f"dgbatch-logs-{os.getuid()}", spool).rglob("*"))


def test_error_that_names_a_worker_says_where_to_look_and_the_next_submit_is_kept_apart(tmp_path, monkeypatch):
    job = fake_job(tmp_path, ["a"], {"load_crash": "no such device"})
    with pytest.raises(RunFailed, match=rf"see: dgbatch logs {tmp_path}/out --worker w0$"):
        steps.submit(job, engine=PATH)
    failed = lines(Run.open(str(tmp_path / "out")), "w0", level="critical")
    assert len(failed) == 3 and all("RuntimeError: no such device" in line["trace"] for line in failed)

    (tmp_path / "checkpoint" / "fake.json").write_text("{}")
    monkeypatch.setattr(process_log.LogIds, "new", staticmethod(of_2099(process_log.LogIds.new)))
    logs = Logs(steps.submit(job, engine=PATH).run)
    order = [line["submit"] for line in logs.lines(Wanted())]
    assert len(logs.submits) == 2 and order == sorted(order)
    second = list(logs.lines(Wanted(), logs.submits[1]))
    assert {line["submit"] for line in second} == {"20991121T163205-3f9c"}
    assert any(line["message"].startswith("loaded in") for line in second)
    assert not any("no such device" in line.get("trace", "") for line in second)


def of_2099(new):
    return lambda *arguments: replace(new(*arguments), submit="20991121T163205-3f9c")


def test_a_refused_new_run_leaves_no_logs(tmp_path):
    job = fake_job(tmp_path, ["a"], {"load_error": "fake.json: not a checkpoint"})
    with pytest.raises(CheckpointError):
        steps.submit(job, engine=PATH)
    assert not (tmp_path / "out").exists()
