"""Ends a process whose main thread waits for something that has no limit of its own.

Ray waits inside its own code, for minutes and deaf to signals, when it cannot reach its cluster any more, and then ends
the process without a word. Nobody else could take the run over all that time: the thread that keeps the lock fresh is
well. So a thread of ours watches the display: the driver's loop has something to show several times a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from math import inf
from types import TracebackType

from dgbatch.errors import RunFailed
from dgbatch.runner.progress import OnProgress, Progress

SILENT_S = 150.0  # longer than a store is asked again and again, shorter than what Ray takes to end us
LOOK_S = 1.0
STARTING = "starting Ray"  # the note of a driver that is not at work yet


class Watchdog:
    """Passes each Progress on; when none has come for too long while the job is at work, `leave` is called with why.

    `leave` runs in a thread of its own and has to end the process: the main thread cannot.
    """

    def __init__(self, show: OnProgress, leave: Callable[[RunFailed], None], silent_s: float | None = None):
        self._show, self._leave = show, leave
        self._silent_s = SILENT_S if silent_s is None else silent_s
        self._last: Progress | None = None
        self._heard_at = time.monotonic()
        self._ended = threading.Event()

    def __call__(self, progress: Progress) -> None:
        self._last, self._heard_at = progress, inf  # who reads it slowly holds us up, not Ray
        try:
            self._show(progress)
        finally:
            self._heard_at = time.monotonic()

    def __enter__(self) -> Watchdog:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    @property
    def _is_at_work(self) -> bool:
        """Not while it reads the input, starts Ray, or proves the dataset: those take as long as they take."""
        return self._last is not None and self._last.state == "in_progress" and self._last.note != STARTING

    def _watch(self) -> None:
        look_s = min(LOOK_S, self._silent_s / 4)
        heard_at, slept_s, looked_at = self._heard_at, 0.0, time.monotonic()
        while not self._ended.wait(look_s):
            now = time.monotonic()
            if self._heard_at != heard_at:
                heard_at, slept_s = self._heard_at, 0.0
            slept_s += now - looked_at - look_s  # this thread too: the whole process was stopped, by Ctrl-Z for one
            looked_at = now
            if self._is_at_work and now - heard_at - slept_s > self._silent_s:
                assert self._last is not None
                self._leave(
                    RunFailed(
                        f"{self._last.path}: the driver has waited for Ray for {self._silent_s:g} s. Is the cluster "
                        "still there, and can it be reached? What is committed is safe: submit again."
                    )
                )
                return
