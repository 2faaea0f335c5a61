"""A disk that is really full, clocks that jump, and two who submit one job at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dgbatch.runner.fault_injection.faults import VARIABLE, Switches, kill_switch
from dgbatch.runner.run_folder import Run
from tests.fake_engine import fake_job
from tests.faults.outcome import assert_nothing_lost, assert_same_rows

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
PROMPTS = [f"prompt {i} " + "long " * 400 for i in range(96)]
IDS = [f"r{i:04d}" for i in range(96)]
LIMIT_S = 120
TMPFS_BYTES = 4 << 20


def submit(job: str, *overrides: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "tests.fake_cli",
        "submit",
        job,
        *(part for o in overrides for part in ("--set", o)),
    ]
    everything = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    return subprocess.run(command, cwd=ROOT, env=everything, capture_output=True, text=True, timeout=LIMIT_S)


@pytest.fixture(scope="module")
def faultless(tmp_path_factory) -> Path:
    """The run that nothing happened to."""
    folder = tmp_path_factory.mktemp("faultless")
    assert submit(fake_job(folder, PROMPTS)).returncode == 0
    return folder / "out"


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of a few hundred kilobytes."""
    if os.geteuid() != 0:
        pytest.skip("a disk of its own size needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(disk)]
    if reason := subprocess.run(mount, capture_output=True, text=True).stderr:
        pytest.skip(f"mount: {reason}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_run_on_a_full_disk_leaves_with_4_and_goes_on_when_there_is_room(tmp_path, faultless, small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(TMPFS_BYTES - (72 << 10)))
    job, run = fake_job(tmp_path, PROMPTS), small_disk / "out"
    full = submit(job, f"output.path={run}")
    assert full.returncode == 4, full.stderr
    assert "No space left on device" in full.stderr and "resume: dgbatch submit" in full.stderr
    assert "Traceback" not in full.stderr
    before = [commit.name for commit in Run.open(str(run)).commits()]
    assert len(before) < 12
    ballast.unlink()
    assert submit(job, f"output.path={run}").returncode == 0
    assert [commit.name for commit in Run.open(str(run)).commits()][: len(before)] == before
    assert_nothing_lost(run, IDS)
    assert_same_rows(run, faultless)


def test_submit_onto_a_disk_that_is_full_already_leaves_with_4(tmp_path, small_disk):
    with suppress(OSError):  # when nothing more goes in
        (small_disk / "ballast").write_bytes(bytes(2 * TMPFS_BYTES))
    left = submit(fake_job(tmp_path, PROMPTS), f"output.path={small_disk / 'out'}")
    assert left.returncode == 4
    assert "No space left on device" in left.stderr


CLOCK = """
import os, time
real, jump_s, after_s = time.time, float(os.environ["JUMP_S"]), float(os.environ["JUMP_AFTER_S"])
born = time.monotonic()
time.time = lambda: real() + (jump_s if time.monotonic() - born > after_s else 0)
"""


@pytest.mark.parametrize("jump_s", [3600, -3600], ids=["an-hour-on", "an-hour-back"])
def test_clock_that_jumps_in_the_middle_costs_nothing(tmp_path, faultless, jump_s):
    """In every process: the driver's, the workers'. Limits are measured by a clock that does not jump."""
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(CLOCK)
    job = fake_job(tmp_path, PROMPTS, {"step_s": 0.05}, workers={"count": 2}, retry={"stall_timeout_s": 20})
    path = f"{tmp_path / 'clock'}{os.pathsep}{ROOT}"
    left = submit(job, env={"PYTHONPATH": path, "JUMP_S": str(jump_s), "JUMP_AFTER_S": "5"})
    assert left.returncode == 0, left.stderr
    kinds = [event["kind"] for event in Run.open(str(tmp_path / "out")).events()]
    assert "worker_lost" not in kinds
    assert_nothing_lost(tmp_path / "out", IDS)
    assert_same_rows(tmp_path / "out", faultless)


def lock_file(run: Path) -> Path:
    return run / "_dgbatch" / "lock.json"


def test_lock_that_was_freshened_before_the_clock_went_back_is_not_kept_for_ever(tmp_path):
    """A driver of another host died; its lock lies an hour in the future of this disk's clock."""
    job, run = fake_job(tmp_path, PROMPTS[:8]), tmp_path / "out"
    switches = Switches(tmp_path / "switches")
    switches.on(kill_switch("driver", "generated"))
    assert submit(job, env={VARIABLE: str(switches.path)}).returncode == -signal.SIGKILL
    lock = lock_file(run)
    lock.write_text(lock.read_text().replace('"host": "', '"host": "another-'))
    hour_on = time.time() + 3600
    os.utime(lock, (hour_on, hour_on))
    assert submit(job).returncode == 0


def test_of_two_who_submit_at_once_one_works_and_the_other_leaves_with_5(tmp_path, faultless):
    job, run = fake_job(tmp_path, PROMPTS, {"step_s": 0.02}), tmp_path / "out"
    command = [sys.executable, "-m", "tests.fake_cli", "submit", job]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pair = [
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=LIMIT_S)[1] for process in pair]
    codes = [process.returncode for process in pair]
    assert sorted(codes) == [0, 5]
    assert f"pid {pair[codes.index(0)].pid} on" in said[codes.index(5)]
    assert_nothing_lost(run, IDS)
    assert_same_rows(run, faultless)


def test_lock_of_a_driver_that_was_killed_is_taken_over_at_once(tmp_path):
    job, run = fake_job(tmp_path, PROMPTS[:16]), tmp_path / "out"
    switches = Switches(tmp_path / "switches")
    switches.on(kill_switch("driver", "committed"))
    assert submit(job, env={VARIABLE: str(switches.path)}).returncode == -signal.SIGKILL
    assert lock_file(run).exists()
    started = time.monotonic()
    assert submit(job).returncode == 0
    assert time.monotonic() - started < 60  # a lock that only ages is taken over after that
    assert not lock_file(run).exists()
    shutil.rmtree(run)
