"""Who reads the metrics: whether somebody comes regularly, and has seen how the run ended.

Prometheus comes every few seconds and knows what it read last: a driver that leaves at once takes its last shards and
its end with it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

LIMIT_S = 15.0  # what a reader may cost a run that is over


class Readers:
    """Any thread may say that a page went out; one waits for the last of them."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=2)  # when the last pages were asked for, by the monotonic clock
        self._came = threading.Condition()

    def came(self, at: float) -> None:
        """A page that was asked for at this time has gone out."""
        with self._came:
            self._times.append(at)
            self._came.notify_all()

    @property
    def regular(self) -> bool:
        """Whether somebody came twice, and may be expected again."""
        with self._came:
            return len(self._times) == 2

    def wait(self, since: float, limit_s: float = LIMIT_S) -> bool:
        """Until a page went out that was asked for after `since`, or nobody is to be expected; whether one did."""
        with self._came:
            patience_s = patience(tuple(self._times), time.monotonic(), limit_s)
            return self._came.wait_for(lambda: bool(self._times) and self._times[-1] >= since, patience_s)


def patience(times: Sequence[float], now: float, limit_s: float) -> float:
    """How long to wait for whoever came at these times: half an interval longer than usual, and not at all for one that
    has not come twice, is long gone, or will not be here within the limit."""
    if len(times) < 2:
        return 0.0
    every = times[-1] - times[-2]
    if times[-1] + every > now + limit_s:
        return 0.0
    return min(limit_s, max(0.0, times[-1] + 1.5 * every - now))
