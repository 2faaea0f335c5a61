"""What a worker's process writes to its standard output and error, native code included, without losing its last words.

Both go straight into a file of the spool: no pipe whose reader dies with the process, no buffer. A thread of the
process reads the file now and then; what it has read it blanks out, so that no secret stays there.
"""

from __future__ import annotations

import faulthandler
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

RAW_BYTES = 1 << 20  # of one raw file: then the next one begins
MOST_LINE = 64 << 10  # bytes of a line without an end


class Capture:
    """Standard output and error of this process from now on. raw: where the nth file lies."""

    def __init__(self, raw: Callable[[int], Path], tell: Callable[[str], None]):
        self._raw, self._tell = raw, tell
        self._number = self._read = 0
        self._file = self._next()
        sys.stdout, sys.stderr = (Unfailing(io.FileIO(stream, "w", closefd=False)) for stream in (1, 2))
        faulthandler.enable(file=2)

    def pump(self, all_of_it: bool = False) -> None:
        """Tell the lines that have come since; with `all_of_it` also one that has no end yet."""
        path = self._raw(self._number)
        size = os.fstat(self._file).st_size
        full = size > RAW_BYTES
        if full:
            old, self._file = self._file, self._next()
            self._take(old, os.fstat(old).st_size, True)
            os.close(old)
            path.unlink(missing_ok=True)
            self._read = 0
        elif size > self._read:
            self._read += self._take(self._file, size, all_of_it)

    def _next(self) -> int:
        """A new raw file, and both streams into it: whoever writes meanwhile writes into one of the two."""
        path = self._raw(self._number + 1)
        target = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for stream in (1, 2):
            os.dup2(target, stream)
        os.close(target)
        self._number += 1
        return os.open(path, os.O_RDWR)

    def _take(self, file: int, size: int, all_of_it: bool) -> int:
        """Bytes that were told."""
        data = os.pread(file, size - self._read, self._read)
        end = len(data) if all_of_it or len(data) > MOST_LINE else data.rfind(b"\n") + 1
        for line in data[:end].decode("utf-8", "replace").splitlines():
            if line.strip("\0 \t"):
                self._tell(line.lstrip("\0"))
        os.pwrite(file, bytes(end), self._read)
        return end


class Unfailing(io.TextIOWrapper):
    """A stream of text whose disk may be full: a print of a library must not end its work."""

    def __init__(self, raw: io.FileIO):
        super().__init__(raw, encoding="utf-8", errors="backslashreplace", write_through=True)

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            return
