from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from dgbatch.runner.fault_injection import processes

pytestmark = pytest.mark.skipif(not processes.supported(), reason="needs Linux")

SLEEP = "import time; time.sleep(600)"
FATHER = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', '{SLEEP}']).pid, flush=True); {SLEEP}"


def sleeper() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", SLEEP], text=True)


def father() -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen([sys.executable, "-c", FATHER], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, int(process.stdout.readline())


def test_process_is_alive_until_it_is_killed_and_a_zombie_is_not():
    process = sleeper()
    assert processes.is_alive(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    assert processes.await_end(process.pid)
    assert not processes.is_alive(process.pid)  # nobody has asked for its exit code yet
    assert process.wait() == -signal.SIGKILL
    assert not processes.is_alive(process.pid)


def test_stopped_process_is_told_from_one_that_runs():
    process = sleeper()
    assert not processes.is_stopped(process.pid)
    os.kill(process.pid, signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while not processes.is_stopped(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert processes.is_stopped(process.pid)
    assert processes.is_alive(process.pid)
    process.kill()
    process.wait()


def test_waiting_for_an_end_that_does_not_come_has_a_limit():
    process = sleeper()
    assert not processes.await_end(process.pid, limit_s=0.05)
    process.kill()
    process.wait()


def test_family_is_a_process_and_all_below_it():
    process, child = father()
    assert processes.family(process.pid) == {process.pid, child}
    assert {process.pid, child} < processes.family(os.getpid())
    processes.end([process.pid, child])
    assert not processes.is_alive(child)
    process.wait()
    process.stdout.close()


def test_orphans_are_adopted_and_ended_and_older_children_are_not():
    older = sleeper()
    with processes.adopting_orphans():
        process, orphan = father()
        process.kill()
        process.wait()
        process.stdout.close()
        assert orphan in processes.family(os.getpid())
    assert not processes.is_alive(orphan)
    assert processes.is_alive(older.pid)
    older.kill()
    older.wait()
