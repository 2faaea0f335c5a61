"""Ctrl-C and SIGTERM, counted instead of obeyed, so that running shards can finish."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


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

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.by_sigterm = number == signal.SIGTERM if not self.count else self.by_sigterm
        self.count += 1
        if self.count > 2:
            raise KeyboardInterrupt
