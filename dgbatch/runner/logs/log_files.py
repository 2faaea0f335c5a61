"""The log of one process on a disk of this machine: written through line by line, bounded, and never in the way.

A line is with the system when `write` returns, so that it outlives the process however that dies.
"""

from __future__ import annotations

import os
from pathlib import Path

from dgbatch.runner.logs.log_lines import chunk_name

CHUNK_BYTES = 256 << 10
KEPT_CHUNKS = 32  # of one process, 8 MiB: its first one, which says how it began, and the last ones


class LogFiles:
    """Chunks of one process's log in a folder. `write` never raises: a full disk drops the line."""

    def __init__(self, folder: Path, submit: str, worker: str, process: str):
        self.folder = folder
        self._ids = (submit, worker, process)
        self._chunk = self._bytes = 0
        self._handle: int | None = None
        self._torn = False  # the last line is there in part

    def write(self, line: bytes) -> bool:
        """Whether the line is in the file now."""
        try:
            if self._handle is None or self._bytes + len(line) > CHUNK_BYTES:
                self._next_chunk()
            assert self._handle is not None
            data = (b"\n" if self._torn else b"") + line + b"\n"
            written = os.write(self._handle, data)
        except OSError:
            return False
        self._bytes += written
        self._torn = written < len(data)
        return not self._torn

    def name(self, chunk: int) -> str:
        return chunk_name(*self._ids, chunk)

    def names(self) -> list[str]:
        """Of the chunks that are kept, the oldest first."""
        oldest = self._chunk - KEPT_CHUNKS + 2
        return [self.name(chunk) for chunk in range(1, self._chunk + 1) if chunk == 1 or chunk >= oldest]

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _next_chunk(self) -> None:
        path = self.folder / self.name(self._chunk + 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self.close()
        self._handle, self._chunk, self._bytes, self._torn = handle, self._chunk + 1, 0, False
        if (old := self._chunk - KEPT_CHUNKS + 1) > 1:
            (self.folder / self.name(old)).unlink(missing_ok=True)
