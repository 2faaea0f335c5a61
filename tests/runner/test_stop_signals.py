from __future__ import annotations

import signal
import threading

import pytest

from dgbatch.errors import RunFailed
from dgbatch.runner.stop_signals import StopSignals, ended_by_sigterm


def test_signals_are_counted_and_the_third_interrupts():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        assert stop.count == 0
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.count == 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_other_threads_leave_signals_alone():
    seen = []

    def enter():
        with StopSignals() as stop:
            seen.append((stop.count, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(0, signal.getsignal(signal.SIGINT))]


def test_sigterm_where_no_rows_are_at_work_ends_with_4_and_only_once():
    before = signal.getsignal(signal.SIGTERM)

    def told_twice() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # while it cleans up

    with ended_by_sigterm(), pytest.raises(RunFailed, match="told to stop \\(SIGTERM\\)") as error:
        told_twice()
    assert error.value.exit_code == 4
    assert signal.getsignal(signal.SIGTERM) == before


def test_rows_at_work_are_stopped_their_own_way():
    with ended_by_sigterm(), StopSignals() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.by_sigterm
