"""Ctrl-C and SIGTERM, counted instead of obeyed, so that running shards can finish."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from dgbatch.errors import RunCancelled, RunFailed


class StopSignals:
    """Counts Ctrl-C and SIGTERM while it is entered; from the third on they interrupt as they usually do."""

    def __init__(self) -> None:
        self.count = 0
        self.by_sigterm = False  # the first one was: nobody sits there, something takes the machine away
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def error(self, path: str, done: int, shards: int) -> RunCancelled | RunFailed:
        """How a run ends that stopped after the first signal, with so many of its shards committed."""
        if self.by_sigterm:
            return RunFailed(
                f"{path}: told to stop (SIGTERM) with {done:,} of {shards:,} shards committed. Submit again to go on "
                "from there."
            )
        return RunCancelled(f"{path}: stopped with {done:,} of {shards:,} shards committed.")

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.by_sigterm = number == signal.SIGTERM if not self.count else self.by_sigterm
        self.count += 1
        if self.count > 2:
            raise KeyboardInterrupt


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Where no rows are at work SIGTERM raises RunFailed, so that locks are let go and the exit code is 4."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough: what is being cleaned up is left alone
        raise RunFailed("told to stop (SIGTERM). What is committed is safe: submit again to go on from there.")

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
