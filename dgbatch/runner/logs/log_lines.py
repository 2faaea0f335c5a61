"""One line of a log: how it is written, as JSON, and read again.

at       when, UTC
level    debug, info, warning, error or critical
worker   w0, w1, ...; or driver
message  one line or more; `trace` is the traceback, where there is one
job, run, submit   whose work it is: the job's name, the run's path, which submit or retry of it
shards   what the line is about, else what the worker had in its hands
n        1, 2, 3, ... in each process: where a number is missing a line was dropped
pid, host, logger
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from dgbatch.runner.logs.redaction import Redaction

DRIVER = "driver"
LEVELS = ("debug", "info", "warning", "error", "critical")
MOST_MESSAGE, MOST_TRACE = 8_000, 40_000  # characters of one line; the middle of a longer one is left out
LAST_WORDS = 999_999  # the chunk that holds what others found of a process that died

Line = dict[str, Any]


class LineFormatter(logging.Formatter):
    """A record of `logging` as one line of JSON without secrets. It counts the lines: one formatter for one process."""

    def __init__(self, ids: Mapping[str, str], redaction: Redaction, shards: Callable[[], Sequence[int]]):
        """ids: job, run, submit and worker of every line. shards: what this process has in its hands just now."""
        super().__init__()
        self._ids, self._redacted, self._shards = dict(ids), redaction, shards
        self._n = 0
        self._host = socket.gethostname()

    def format(self, record: logging.LogRecord) -> str:
        self._n += 1
        trace = self.formatException(record.exc_info) if record.exc_info else getattr(record, "trace", None)
        shards = getattr(record, "shards", None)
        line = {
            "at": stamp(record.created),
            "level": record.levelname.lower(),
            "worker": self._ids["worker"],
            "message": shortened(self._redacted(_message(record)), MOST_MESSAGE),
            **({"trace": shortened(self._redacted(trace), MOST_TRACE)} if trace else {}),
            "job": self._ids["job"],
            "run": self._ids["run"],
            "submit": self._ids["submit"],
            "shards": sorted(set(self._shards() if shards is None else shards)),
            "n": self._n,
            "pid": os.getpid(),
            "host": self._host,
            "logger": record.name,
        }
        return json.dumps(line, ensure_ascii=False, default=str)


def parsed(text: bytes) -> Line | None:
    """The line; None for one that a crash or a full disk cut short."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and "at" in line and "message" in line else None


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


def chunk_name(submit: str, worker: str, process: str, chunk: int) -> str:
    return f"{submit}.{worker}.{process}.{chunk:06d}.jsonl"


def shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    left_out = len(text) - most
    return f"{text[: most // 2]}\n[... {left_out:,} characters ...]\n{text[-(most // 2) :]}"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  # a library's record whose arguments do not fit its text, or cannot be printed
        return str(record.msg)
