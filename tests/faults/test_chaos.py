"""`dgbatch chaos` for real, with the fake engine: processes die, and everything it says is true."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from dgbatch.runner.fault_injection.fault_plan import fault_plan
from dgbatch.runner.fault_injection.processes import family
from tests.fake_engine import fake_job
from tests.faults.drill import FAKE, drill

pytestmark = pytest.mark.faults

PROMPTS = [f"prompt {i}" for i in range(47)] + [None]


def scratch_folders() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob("dgc-*")}


def test_job_survives_the_loss_of_workers_driver_node_and_disk(tmp_path):
    """The issue's own command line, in one go, as a person types it."""
    job = fake_job(tmp_path, PROMPTS, {"step_s": 0.4}, workers={"count": 2})
    before, children = scratch_folders(), family(os.getpid())
    command = [*FAKE, "chaos", job, "--kill", "worker@10%,driver@committed,node@30%", "--hang", "worker@40%"]
    left = subprocess.run([*command, "--disk-full", "--json"], capture_output=True, text=True, timeout=300)
    assert left.returncode == 0, left.stdout + left.stderr
    answer = json.loads(left.stdout)
    assert [fault["happened"] for fault in answer["faults"]] == [True] * 5
    assert answer["faults"][2]["what"].startswith("SIGKILL to all of node")
    assert answer["submits"][0] == -9 and answer["submits"][-1] == 3
    assert (answer["verify"]["ok"], answer["verify"]["quarantined"]) == (47, 1)
    assert scratch_folders() == before
    assert family(os.getpid()) == children
    assert not (tmp_path / "out").exists()  # the run of the user


def test_worker_that_hangs_is_noticed_within_the_stall_timeout(tmp_path):
    job = fake_job(tmp_path, PROMPTS, {"step_s": 0.2}, retry={"stall_timeout_s": 2})
    survived, _ = drill(job, fault_plan(hang="worker@10%"))
    assert survived.ok, survived
    (outcome,) = survived.outcomes
    assert outcome.what.startswith("SIGSTOP to worker w0")
    # the clock of a worker's silence may have begun half a second before it was stopped
    assert 1 <= float(outcome.answer.removeprefix("noticed after ").removesuffix(" s")) < 10
    assert survived.exit_codes == [3]


def test_store_that_refuses_requests_now_and_then_costs_nothing_but_time(tmp_path):
    survived, _ = drill(fake_job(tmp_path, PROMPTS, {"step_s": 0.05}), fault_plan(store_errors=0.05))
    assert survived.ok, survived
    assert "requests refused" in survived.outcomes[0].what


def test_fault_that_comes_too_late_is_told_as_one_that_did_not_happen(tmp_path):
    survived, _ = drill(fake_job(tmp_path, PROMPTS[:8]), fault_plan("worker@500s"))
    assert survived.verification is not None and survived.verification.holds
    assert [outcome.happened for outcome in survived.outcomes] == [False]
    assert not survived.ok


def test_job_that_fails_by_itself_is_not_submitted_for_ever(tmp_path):
    job = fake_job(tmp_path, PROMPTS[:4], {"load_crash": "CUDA out of memory"})
    survived, _ = drill(job, fault_plan("worker@50%"))
    assert survived.exit_codes == [4, 4, 4]
    assert "CUDA out of memory" in survived.reason
    assert survived.verification is None and not survived.ok


def test_wrong_job_is_the_error_that_submit_gives(tmp_path):
    job = fake_job(tmp_path, PROMPTS[:4], {"load_error": "tensor model.norm.weight is missing"})
    command = [*FAKE, "chaos", job, "--kill", "worker@50%"]
    left = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert left.returncode == 2
    assert left.stderr.splitlines()[-1] == "error: tensor model.norm.weight is missing"
