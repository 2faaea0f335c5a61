"""The log of this process while it works on a run: from the `logging` of all its libraries into the run's folder.

Nothing in here may fail or slow the work. On a local disk each line is written where it belongs before `logging` goes
on; for an object store it is written into the spool, and a thread puts the chunks into the store now and then.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from dgbatch.errors import DgbatchError
from dgbatch.runner.fault_injection.faults import open_folder
from dgbatch.runner.layout import LOGS
from dgbatch.runner.logs.log_capture import Capture
from dgbatch.runner.logs.log_files import LogFiles
from dgbatch.runner.logs.log_keeping import make_room, put_last_words
from dgbatch.runner.logs.log_lines import DRIVER, LineFormatter
from dgbatch.runner.logs.redaction import Redaction
from dgbatch.runner.logs.spool import Spool, forget_stale

PUMP_S = 0.25  # between two looks at what native code has written
SHIP_S = 5.0  # between two puts of a chunk that grows into a store; an error does not wait
LEFT_S = 2.0  # between two looks for processes that died
END_S = 1.0  # for workers that were told to end to be gone, so that their last words are found
OURS = logging.getLogger("dgbatch")
STORE_LIBRARIES = ("obstore", "botocore", "urllib3")  # of the thread that puts chunks: it must not log about itself


@dataclass(frozen=True, slots=True)
class LogIds:
    """Whose work a process does; goes to the workers."""

    path: str
    run: str  # the path without secrets
    job: str
    submit: str
    secrets: Mapping[str, str] = field(repr=False)

    @staticmethod
    def new(path: str, job: str, hide: Callable[[str], str], secrets: Mapping[str, str]) -> LogIds:
        """Of a submit that begins now."""
        submit = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:4]}"
        return LogIds(path, hide(path), job, submit, dict(secrets))


class ProcessLog(logging.Handler):
    """Puts what this process logs into the run, from `open` to `close`."""

    def __init__(self, ids: LogIds, worker: str, shards: Callable[[], Sequence[int]] = tuple, alone: bool = False):
        """alone: the process is this worker's, so that all that it prints, and all that nobody catches, is its own."""
        super().__init__(logging.INFO)
        self.ids, self.worker = ids, worker
        self._redaction = Redaction(ids.secrets)
        named = {"job": ids.job, "run": ids.run, "submit": ids.submit, "worker": worker}
        self.setFormatter(LineFormatter(named, self._redaction, shards))
        process = uuid.uuid4().hex[:6]
        self._spool = _spool(ids.path, f"{ids.submit}.{worker}.{process}")
        self._in_store = "://" in ids.path
        local = Path(ids.path, LOGS) if not self._in_store else self._spool.folder if self._spool else Path("/dev/null")
        self._files = LogFiles(local, ids.submit, worker, process)
        self._shipped: dict[str, int] = {}
        self._asked, self._done, self._ended = threading.Event(), threading.Event(), False
        self._capture: Capture | None = None
        self._alone = alone
        self._levels: dict[str, tuple[int, bool]] = {}
        self._thread = threading.Thread(target=self._keep, name="log", daemon=True)

    def open(self) -> ProcessLog:
        for logger, propagate in ((logging.getLogger(), True), (OURS, False)):
            self._levels[logger.name] = (logger.level, logger.propagate)
            logger.addHandler(self)
            logger.propagate = propagate
        OURS.setLevel(logging.INFO)
        if self._alone:
            logging.getLogger().setLevel(logging.INFO)
            logging.captureWarnings(True)
            threading.excepthook = _thread_failed
            sys.excepthook = _process_failed
            if self._spool is not None:
                with suppress(OSError):
                    self._capture = Capture(self._spool.raw, logging.getLogger("output").info)
        self._thread.start()
        return self

    def emit(self, record: logging.LogRecord) -> None:
        if threading.current_thread() is self._thread and record.name.split(".")[0] in STORE_LIBRARIES:
            return
        try:
            self._files.write(self.format(record).encode("utf-8", "replace"))
        except Exception:  # noqa: BLE001  # a record that cannot be written is one line less; its number is missing
            return
        if record.levelno >= logging.ERROR:
            self._asked.set()

    def flush_soon(self, limit_s: float) -> None:
        """Wait until what was said is in the run, if that takes no longer than this: the process may be killed next."""
        self._done.clear()
        self._asked.set()
        if self._in_store or self._capture is not None:
            self._done.wait(limit_s)

    def forget_stale(self) -> None:
        """Tidy away what other runs left on this machine a week ago."""
        if self._spool is not None:
            forget_stale(self._spool.folder)

    def close(self) -> None:
        """Say no more here. What dead processes of this machine left is put into the run."""
        for logger in (logging.getLogger(), OURS):
            logger.removeHandler(self)
            if logger.name in self._levels:
                level, logger.propagate = self._levels.pop(logger.name)
                logger.setLevel(level)
        self._ended = True
        self._asked.set()
        if self._thread.is_alive():
            self._thread.join(END_S)
        with suppress(Exception):
            self._pick_up(END_S)
            self._ship(last=True)
        self._files.close()
        if self._spool is not None:
            self._spool.close()
        super().close()

    # ---- the thread that keeps it

    def _keep(self) -> None:
        ship_at = left_at = 0.0
        while not self._ended:
            asked = self._asked.wait(PUMP_S if self._capture is not None else LEFT_S)
            self._asked.clear()
            now = time.monotonic()
            with suppress(Exception):  # a store that is away, a disk that is full: a later turn tries again
                if self._capture is not None:
                    self._capture.pump()
                if now >= ship_at or asked:
                    ship_at = now + SHIP_S
                    self._ship()
                if now >= left_at:
                    left_at = now + LEFT_S
                    self._pick_up()
            self._done.set()

    def _ship(self, last: bool = False) -> None:
        """Put the chunks that have grown into the store; those that are no longer kept leave it."""
        if not self._in_store or self._spool is None:
            return
        folder, names = open_folder(self.ids.path), self._files.names()
        for name in names:
            path = self._files.folder / name
            if (size := path.stat().st_size) != self._shipped.get(name):
                data = path.read_bytes()
                folder.put(f"{LOGS}/{name}", data)
                self._shipped[name] = len(data) if size else 0
        for name in [name for name in self._shipped if name not in names]:
            folder.delete(f"{LOGS}/{name}")
            del self._shipped[name]

    def _pick_up(self, limit_s: float = 0.0) -> None:
        """Put into the run what processes that died left on this machine; wait a moment for those that are about to."""
        if self._spool is None:
            return
        deadline = time.monotonic() + limit_s
        while True:
            for left in self._spool.left():
                put_last_words(open_folder(self.ids.path), left, self.ids, self._redaction)
                left.remove()
            if time.monotonic() >= deadline or not self._spool.others():
                return
            time.sleep(0.02)


@contextmanager
def driver_log(ids: LogIds) -> Iterator[LogIds]:
    """What this process logs inside the block goes into the run, and what workers on this machine left at its end."""
    log = None
    with suppress(Exception):  # who may not delete may still write
        make_room(open_folder(ids.path))
    with suppress(Exception):  # a run without a log is better than none
        log = ProcessLog(ids, DRIVER).open()
        log.forget_stale()
    try:
        OURS.info("process %s on %s at work on the run", os.getpid(), platform.node())
        yield ids
    except Exception as error:
        # Of what people can mend the event says all.
        OURS.error("%s: the run has failed", type(error).__name__, exc_info=not isinstance(error, DgbatchError))
        raise
    finally:
        if log is not None:
            with suppress(Exception):
                log.close()


def worker_log(ids: LogIds | None, worker: str, shards: Callable[[], Sequence[int]]) -> ProcessLog | None:
    """The log of a worker that has a process of its own, which ends when the process does."""
    if ids is None:
        return None
    try:
        return ProcessLog(ids, worker, shards, alone=True).open()
    except Exception:  # noqa: BLE001  # a worker without a log is better than none
        return None


def _spool(path: str, stem: str) -> Spool | None:
    try:
        return Spool(path, stem)
    except OSError:
        return None


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None:
        OURS.critical("thread %s failed", failed.thread and failed.thread.name, exc_info=failed.exc_value)


def _process_failed(kind: type[BaseException], error: BaseException, trace: object) -> None:
    OURS.critical("the process failed", exc_info=error)
