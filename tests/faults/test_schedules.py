"""Random faults at random times, from a seed that is printed: processes die, hang and find their disk full.

`DGBATCH_SEED=7 just test-faults -k schedule` gives the schedules of an earlier day again, number by number. Times of
processes are not as exact as seeds: what is the same is what is asked for.
"""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from dgbatch.runner.fault_injection.fault_plan import Fault, fault_plan
from tests.fake_engine import fake_job
from tests.faults.drill import FAKE, drill
from tests.faults.outcome import assert_nothing_lost, assert_same_rows

pytestmark = pytest.mark.faults

SCHEDULES = 20
PROMPTS = [f"prompt {i}" for i in range(37)] + [None, "!reject", "last"]
IDS = [f"r{i:04d}" for i in range(40)]
SETTINGS = {"step_s": 0.1}


@pytest.fixture(scope="module")
def faultless(tmp_path_factory) -> Path:
    """The run that nothing happened to."""
    folder = tmp_path_factory.mktemp("faultless")
    job = fake_job(folder, PROMPTS, workers={"count": 2})
    assert subprocess.run([*FAKE, "submit", job], capture_output=True, timeout=120).returncode == 3
    return folder / "out"


def schedule(dice: random.Random) -> list[Fault]:
    """One or two kills, and sometimes a worker that hangs or a disk that is full."""
    whens = ["generated", "written", "committed", *(f"{percent}%" for percent in range(0, 65, 5))]
    kills = {f"{dice.choice(('worker', 'worker', 'driver'))}@{dice.choice(whens)}" for _ in range(dice.randint(1, 2))}
    hang = f"worker@{dice.randrange(0, 65, 5)}%" if dice.random() < 0.2 else ""
    return fault_plan(",".join(sorted(kills)), hang, disk_full=dice.random() < 0.15)


@pytest.mark.parametrize("number", range(SCHEDULES))
def test_no_schedule_of_faults_changes_a_row(tmp_path, faultless, number):
    seed = os.environ["DGBATCH_SEED"]
    faults = schedule(random.Random(f"{seed}:{number}"))
    asked = f"DGBATCH_SEED={seed}, schedule {number}: {', '.join(map(str, faults))}"
    job = fake_job(tmp_path, PROMPTS, SETTINGS, workers={"count": 2}, retry={"stall_timeout_s": 3})
    survived, run = drill(job, faults)
    assert survived.verification is not None and survived.verification.holds, (asked, survived)
    assert any(outcome.happened for outcome in survived.outcomes), (asked, survived)
    assert_nothing_lost(run, IDS)
    assert_same_rows(run, faultless)
