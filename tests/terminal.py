"""A terminal without a screen: a real pseudo-terminal, and pyte to know what people would see on it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyte

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "terminal"
LIMIT_S = 120.0
# The program's own session, with the terminal as its own, so that Ctrl-C is a signal to it as in a shell.
OWN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """One program on a terminal of its own. A context manager: the program is gone at its end."""

    def __init__(
        self, argv: Sequence[str], columns: int = 80, rows: int = 24, environment: Mapping[str, str] | None = None
    ):
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.written = b""
        self._ours, theirs = pty.openpty()
        self._resize(columns, rows)
        self.modes = termios.tcgetattr(self._ours)
        usual = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", OWN_TERMINAL, *argv],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=ROOT,
            start_new_session=True,
            env={**usual, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "TZ": "UTC", **(environment or {})},
        )
        os.close(theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._ours)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines).rstrip() + "\n"

    def until(self, seen: Callable[[str], object]) -> str:
        """Wait until the screen shows it; the screen then."""
        deadline = time.monotonic() + LIMIT_S
        while not seen(self.text):
            assert time.monotonic() < deadline, f"waited too long; the screen:\n{self.text}"
            assert self._read(0.2) or self._process.poll() is None, f"it has ended; the screen:\n{self.text}"
        return self.text

    def left(self) -> int:
        """Wait until the program ends; its exit code."""
        deadline = time.monotonic() + LIMIT_S
        while self._process.poll() is None:
            assert time.monotonic() < deadline, f"waited too long; the screen:\n{self.text}"
            self._read(0.2)
        while self._read(0):
            pass
        return self._process.returncode

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)

    def resize(self, columns: int, rows: int) -> None:
        """The program gets SIGWINCH, as from a window that is dragged."""
        self._resize(columns, rows)
        self.screen.resize(rows, columns)

    def assert_tidy(self) -> None:
        """The terminal is in the modes that it was in, and its cursor can be seen."""
        assert not self.screen.cursor.hidden
        assert pyte.modes.DECAWM in self.screen.mode
        assert termios.tcgetattr(self._ours) == self.modes

    def _resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read(self, wait_s: float) -> bool:
        ready, _, _ = select.select([self._ours], [], [], wait_s)
        if not ready:
            return False
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # nobody has it open any more
            return False
        self.written += data
        self._stream.feed(data)
        return bool(data)


def check_golden(name: str, text: str, update: bool) -> None:
    """The text of a screen is that of tests/golden/terminal/<name>.txt."""
    path = GOLDEN / f"{name}.txt"
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path}: rewrite with `just golden`"
