"""A few lines at the bottom of a terminal that change in place, without flicker and without a trace.

Each change is one write, of the lines that differ alone, with the cursor hidden and lines unable to wrap only while it
lasts: whenever the process ends, killed or not, the terminal is in the modes it was in. Between two writes the cursor
stands below the lines, at the left.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import IO

from rich.cells import cell_len
from rich.text import Text

BEGIN = "\x1b[?2026h\x1b[?25l\x1b[?7l"  # all at once, where a terminal can; no cursor, no wrapping
END = "\x1b[?7h\x1b[?25h\x1b[?2026l"
UP, TO_END_OF_LINE, TO_END = "\x1b[{}A", "\x1b[K", "\x1b[J"


class Screen:
    """Lines on a terminal; any thread may call."""

    def __init__(self, terminal: IO[str]):
        self._terminal = terminal
        self._lines: list[str] = []
        self._size = (0, 0)
        self._lock = threading.RLock()

    def paint(self, lines: Sequence[str], width: int, height: int) -> None:
        """Show these lines, with their styles and each shorter than the terminal is wide, instead of the last ones."""
        with self._lock:
            lines = list(lines[: max(0, height - 1)])
            if (width, height) != self._size:
                out = self._erased(width, height)
                self._size = (width, height)
            elif lines == self._lines:
                return
            else:
                out = _up(len(self._lines))
            for index, line in enumerate(lines):
                same = index < len(self._lines) and self._lines[index] == line
                out += "\r\n" if same else f"\r{line}{TO_END_OF_LINE}\r\n"
            self._write(out + "\r" + TO_END)
            self._lines = lines

    def above(self, text: str) -> None:
        """Print a text that stays, above the lines."""
        with self._lock:
            lines, self._lines = self._lines, []
            kept = "".join(f"\r{line}{TO_END_OF_LINE}\r\n" for line in lines)
            ending = "" if text.endswith("\n") else "\n"
            self._write(_up(len(lines)) + "\r" + TO_END + (text + ending).replace("\n", "\r\n") + kept)
            self._lines = lines

    def clear(self) -> None:
        """Take the lines away."""
        with self._lock:
            if self._lines:
                self._write(_up(len(self._lines)) + "\r" + TO_END)
            self._lines = []

    def _erased(self, width: int, height: int) -> str:
        """To where the lines began. A terminal that became narrower has broken them, each into as many as it takes."""
        rows = sum(max(1, -(-cell_len(Text.from_ansi(line).plain) // width)) for line in self._lines)
        self._lines = []
        return _up(min(rows, height - 1)) + "\r" + TO_END

    def _write(self, text: str) -> None:
        self._terminal.write(BEGIN + text + END)
        self._terminal.flush()


def _up(lines: int) -> str:
    return UP.format(lines) if lines else ""
