"""SIGKILL of a worker and of the driver at five points around one shard: real Ray, real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dgbatch.runner import submit as steps
from dgbatch.runner.fault_injection.faults import VARIABLE, Switches, kill_switch
from dgbatch.runner.fault_injection.processes import is_alive
from dgbatch.runner.run_folder import Run
from tests.fake_engine import PATH, fake_job, kill_at_row
from tests.faults.outcome import assert_nothing_lost, assert_same_rows

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
PROMPTS = [f"prompt {i}" for i in range(29)] + [None, "!reject", "last"]
IDS = [f"r{i:04d}" for i in range(32)]
POINTS = ("taken", "generating", "generated", "written", "committed")
LIMIT_S = 120


@pytest.fixture(scope="module")
def faultless(tmp_path_factory, ray_with_faults) -> Path:
    """The run that nothing happened to."""
    folder = tmp_path_factory.mktemp("faultless")
    assert steps.submit(fake_job(folder, PROMPTS), engine=PATH).exit_code == 3
    return folder / "out"


def arm(switches: Switches, victim: str, point: str, run: Path) -> str:
    """The kill is to come at this point of a shard behind the first, so that there is a commit to keep."""
    if point in ("taken", "generating"):  # of the last of four: when it is handed out, the first is committed
        return kill_at_row(switches, victim, point, str(run), "r0027")
    switches.on(name := kill_switch(victim, point), "2")
    return name


def kinds(run: Path) -> list[str]:
    return [event["kind"] for event in Run.open(str(run)).events()]


@pytest.mark.parametrize("point", POINTS)
def test_worker_killed_at_any_point_costs_nothing_but_its_attempt(tmp_path, switches, faultless, point):
    job, run = fake_job(tmp_path, PROMPTS), tmp_path / "out"
    name = arm(switches, "worker", point, run)
    done = steps.submit(job, engine=PATH)
    assert done.exit_code == 3
    (killed,) = switches.log(name)
    assert not is_alive(killed["pid"])
    assert kinds(run).count("worker_lost") == 1
    assert kinds(run).count("worker_ready") == 2
    assert_nothing_lost(run, IDS)
    assert_same_rows(run, faultless)


@pytest.mark.parametrize("point", POINTS)
def test_driver_killed_at_any_point_resumes_to_the_same_rows(tmp_path, faultless, point):
    job, run = fake_job(tmp_path, PROMPTS), tmp_path / "out"
    switches = Switches(tmp_path / "switches")
    name = arm(switches, "driver", point, run)

    def submit() -> int:
        command = [sys.executable, "-m", "tests.fake_cli", "submit", job, "--json"]
        env = {**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: str(switches.path)}
        return subprocess.run(command, cwd=ROOT, env=env, timeout=LIMIT_S, capture_output=True).returncode

    assert submit() == -9
    (killed,) = switches.log(name)
    assert not is_alive(killed["pid"])
    committed = {commit.shard: commit for commit in Run.open(str(run)).commits()}
    assert set(committed) in {"generated": [{0}], "written": [{0}], "committed": [{0, 1}]}.get(
        point, [{0}, {0, 1}, {0, 1, 2}]
    )
    assert submit() == 3
    after = {commit.shard: commit for commit in Run.open(str(run)).commits()}
    assert {shard: after[shard] for shard in committed} == committed
    assert kinds(run).count("started") == 2
    assert_nothing_lost(run, IDS)
    assert_same_rows(run, faultless)
