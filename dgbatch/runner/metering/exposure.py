"""How the metrics of a submit leave its process: an endpoint, a file that names it, pushes, and files at the end.

None of it ever costs the job anything but a line that says what is wrong, and some seconds at the end for who comes
regularly (readers.py); only an endpoint that cannot be had is told before the job begins.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from dgbatch.errors import DgbatchError, JobError, RunCancelled, RunFailed
from dgbatch.runner.layout import METRICS
from dgbatch.runner.metering.meter import Meter
from dgbatch.runner.metering.metrics_server import MetricsServer
from dgbatch.runner.metering.pushgateway import Pushes
from dgbatch.runner.metering.targets import Target, replace_whole
from dgbatch.runner.metrics import page
from dgbatch.runner.progress import Progress
from dgbatch.runner.storage.lock import refuse_locked

if TYPE_CHECKING:
    from dgbatch.runner.ledger import Ledger
    from dgbatch.runner.progress import OnProgress, State
    from dgbatch.runner.run_folder import Run
    from dgbatch.runner.spec import JobSpec


IMPATIENT = (RunCancelled, KeyboardInterrupt)  # somebody wants it to end now

WAITING = "over; waiting for who reads the metrics to see the end (Ctrl-C leaves at once)"


class Exposure:
    """A context manager: listens at once, so that a port in use is told before anything is written.

    Raises JobError for an endpoint that cannot be had, and RunLocked where it is that of a driver of the same run.
    """

    def __init__(self, spec: JobSpec, show: OnProgress, path: str):
        """path: of the run."""
        self.spec, self._show = spec, show
        asked = spec.metrics
        try:
            self._server = None if asked.port is None else MetricsServer(asked.host, asked.port)
        except JobError:
            refuse_locked(path)
            raise
        self._target: Target | None = None
        self._pushes: Pushes | None = None
        self._meter: Meter | None = None
        self._run: Run | None = None
        self._untold: list[str] = []
        self._ended_at: float | None = None  # by the monotonic clock
        self._last: Progress | None = None  # that was told

    def __enter__(self) -> Exposure:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._server is not None and self._ended_at is not None and not isinstance(error, IMPATIENT):
                with suppress(KeyboardInterrupt, RunFailed):  # Ctrl-C, SIGTERM: the run is over, and this wait too
                    if self._server.is_read and self._last is not None:
                        self._show(replace(self._last, note=WAITING))
                    self._server.let_read(self._ended_at)
        finally:
            if self._target is not None:
                self._target.remove()
            if self._server is not None:
                self._server.stop()

    @property
    def url(self) -> str:
        """Of the page; nothing where there is none."""
        return "" if self._server is None else self._server.url

    @contextmanager
    def of(self, run: Run, ledger: Ledger) -> Iterator[Meter]:
        """Show this run from now on, and how it ended once it has."""
        self._run, self._meter = run, Meter(self.spec, run, ledger)
        meter = self._meter
        if self._server is not None:
            self._server.start(lambda: page(meter.moment))
            try:
                self._target = Target(self.spec.name, self._server.target)
            except (OSError, DgbatchError) as error:
                self._untold.append(f"Prometheus will not find this job by itself: {error}")
            run.event("metrics", url=self.url)
            self._show(Progress("validating", self.spec.name, run.path, note=f"metrics at {self.url}"))
        if self.spec.metrics.push is not None:
            self._pushes = Pushes(self.spec.metrics.push, self.spec.name, lambda: page(meter.moment))
            self._pushes.start()
        state: State = "failed"
        try:
            yield meter
            state = "completed"
        except IMPATIENT:
            state = "cancelled"
            raise
        finally:
            meter.ended(state)
            self._ended_at = time.monotonic()
            self._leave_last(run, page(meter.moment))

    def tell(self, progress: Progress) -> None:
        """Pass on what people are shown, with where the metrics are and what is wrong with them."""
        if self._meter is not None:
            self._meter.told(progress)
        if self._pushes is not None and (complaint := self._pushes.complaint()):
            self._untold.append(self.spec.hide(complaint))
        if self._untold and self._run is not None:
            complaint = self._untold.pop(0)
            self._run.event("metrics_failed", reason=complaint)
            progress = replace(progress, note=complaint)
        self._last = replace(progress, metrics_url=self.url)
        self._show(self._last)

    def _leave_last(self, run: Run, last: bytes) -> None:
        """The last page, where whoever comes later finds it."""
        if self._pushes is not None:
            self._pushes.stop()
            if complaint := self._pushes.complaint():
                self._complain(run, complaint)
        with suppress(OSError, DgbatchError):
            run.folder.put(METRICS, last)
        if self.spec.metrics.textfile is not None:
            path = Path(self.spec.metrics.textfile)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_whole(path, last)
            except OSError as error:
                self._complain(run, f"metrics.textfile: {path} cannot be written: {error.strerror or error}")

    def _complain(self, run: Run, complaint: str) -> None:
        with suppress(OSError, DgbatchError):
            run.event("metrics_failed", reason=self.spec.hide(complaint))  # the run knows the secrets of its first job
