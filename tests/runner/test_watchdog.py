from __future__ import annotations

import threading
import time

from dgbatch.errors import RunFailed
from dgbatch.runner.progress import Progress, WorkerView
from dgbatch.runner.watchdog import Watchdog

AT_WORK = Progress("in_progress", "job", "out", crew=(WorkerView("w0", "working"),))
LIMIT_S = 30.0


class Left:
    """Stands for the end of the process."""

    def __init__(self) -> None:
        self.why: list[RunFailed] = []
        self.now = threading.Event()

    def __call__(self, error: RunFailed) -> None:
        self.why.append(error)
        self.now.set()


def test_driver_that_shows_nothing_for_too_long_is_ended_with_the_reason():
    left, shown = Left(), []
    with Watchdog(shown.append, left, silent_s=0.2) as watchdog:
        watchdog(AT_WORK)
        assert left.now.wait(LIMIT_S)
    assert shown == [AT_WORK]
    assert str(left.why[0]).startswith("out: the driver has waited for Ray for 0.2 s.")


def test_driver_that_goes_on_showing_is_left_alone():
    left = Left()
    with Watchdog(lambda progress: None, left, silent_s=0.4) as watchdog:
        for _ in range(10):
            watchdog(AT_WORK)
            assert not left.now.wait(0.1)
    assert left.why == []


def test_what_takes_as_long_as_it_takes_is_left_alone():
    left = Left()
    for state, note in (("validating", ""), ("finalizing", "verifying every row"), ("in_progress", "starting Ray")):
        with Watchdog(lambda progress: None, left, silent_s=0.1) as watchdog:
            watchdog(Progress(state, "job", "out", note=note))
            assert not left.now.wait(0.5)


def test_end_of_the_block_is_the_end_of_watching():
    left = Left()
    with Watchdog(lambda progress: None, left, silent_s=0.2) as watchdog:
        watchdog(AT_WORK)
    assert not left.now.wait(0.6)


def test_a_reader_that_is_slow_is_not_taken_for_ray():
    left = Left()
    with Watchdog(lambda progress: time.sleep(0.6), left, silent_s=0.2) as watchdog:
        watchdog(AT_WORK)
    assert left.why == []


def test_time_in_which_the_whole_process_was_stopped_does_not_count(monkeypatch):
    left, clock, stopped_s = Left(), time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock() + stopped_s[0])
    with Watchdog(lambda progress: None, left, silent_s=2.0) as watchdog:
        watchdog(AT_WORK)
        stopped_s[0] = 1000.0  # Ctrl-Z, and fg
        assert not left.now.wait(1.0)
        assert left.now.wait(LIMIT_S)
