"""`_dgbatch/live.json`: how a run goes at this moment, for whoever watches it from another terminal.

It is for people alone: nothing is decided by it, and a job goes on when it cannot be written. The driver's commit
records stay the truth about what is done.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from types import TracebackType

from dgbatch.runner.layout import LIVE
from dgbatch.runner.progress import OnProgress, Progress
from dgbatch.runner.storage.folder import Folder

DISK_S = 2.0  # between two writes; and for a store, which is slower and wants money for each
STORE_S = 10.0
MISSED = 3  # writes that did not come: then nobody writes any more
GRACE_S = 3.0  # for a write itself, and for clocks of two machines that differ
END_S = 5.0  # to wait for a write that is on its way


class LiveFile:
    """Passes each Progress on, and now and then writes the last one; a context manager, at whose end the file goes.

    url: where the run's metrics are, for those who watch.
    """

    def __init__(self, folder: Folder, show: OnProgress, url: str = "", every_s: float | None = None):
        self._folder, self._show, self._url = folder, show, url
        self._every_s = every_s or (STORE_S if "://" in folder.path else DISK_S)
        self._last: Progress | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, name="live-file", daemon=True)

    def __call__(self, progress: Progress) -> None:
        self._last = replace(progress, metrics_url=self._url)
        self._show(progress)

    def __enter__(self) -> LiveFile:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(END_S)
        with suppress(OSError):
            self._folder.delete(LIVE)

    def _write(self) -> None:
        while not self._ended.wait(self._every_s):
            if (last := self._last) is not None:
                told = {"at": datetime.now(timezone.utc).isoformat(), "every_s": self._every_s, **last.to_json()}
                with suppress(OSError):
                    self._folder.put(LIVE, json.dumps(told).encode())


class LiveReader:
    """Reads it again and again; what stands still is not believed."""

    def __init__(self, folder: Folder, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)):
        self._folder, self._now = folder, now
        self._last_at = ""  # what the file last said, and since when by our own clock it has
        self._since = now()

    def read(self) -> Progress | None:
        """How it goes; None when nobody tells."""
        try:
            told = json.loads(self._folder.get(LIVE))
            progress, at, every_s = Progress.from_json(told), str(told["at"]), float(told["every_s"])
            written = datetime.fromisoformat(at)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        now, limit = self._now(), MISSED * every_s + GRACE_S
        if at != self._last_at:
            # At the first look only the clocks of two machines say how old it is; later, that it has changed.
            self._since = now if self._last_at else written
            self._last_at = at
        return progress if abs((now - self._since).total_seconds()) <= limit else None
