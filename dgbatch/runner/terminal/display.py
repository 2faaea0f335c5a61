"""Where a job's Progress goes while it runs: a live picture on a terminal, a line now and then elsewhere, or JSON."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import TextIO, TypeVar

from rich.console import Console

from dgbatch.runner.progress import Progress
from dgbatch.runner.terminal.live import frame
from dgbatch.runner.terminal.plain import plain_line, printable
from dgbatch.runner.terminal.screen import Screen

PLAIN_EVERY_S = 10.0  # seconds between two plain lines
JSON_EVERY_S = 1.0
TICK_S = 0.25  # between two pictures at least
JOIN_S = 2.0  # for a terminal that takes nothing any more
Self = TypeVar("Self", bound="Display")


class Display(ABC):
    """Shows each Progress it is called with; a context manager. `display_on` knows which one suits."""

    path = ""  # of the run, as soon as it is known

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, progress: Progress) -> None:
        self.path = progress.path
        self.show(progress)

    @abstractmethod
    def show(self, progress: Progress) -> None:
        """In whatever way it shows things."""

    def close(self) -> None:  # noqa: B027  # a line has nothing to close
        """Leave no trace of what was only for the moment; from any thread, and more than once."""


def display_on(console: Console, json_lines: bool = False, of_job: bool = False) -> Display:
    """For people on this console, or for programs on standard output. of_job: of one that goes on when nobody reads."""
    if json_lines:
        return JsonLines(sys.stdout, of_job=of_job)
    if console.is_terminal and not console.is_dumb_terminal:
        return LivePicture(console)
    return PlainLines(console, of_job=of_job)


class PlainLines(Display):
    """One line now and then, and at once for what is new."""

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic, of_job: bool = False):
        self._console = console
        self._now = now
        self._of_job = of_job
        self._last_line_at: float | None = None
        self._last_note = ""

    def show(self, progress: Progress) -> None:
        now = self._now()
        fresh_note = bool(progress.note) and progress.note != self._last_note
        due = self._last_line_at is None or now - self._last_line_at >= PLAIN_EVERY_S
        if fresh_note or (due and progress.state == "in_progress"):
            _print(printable(plain_line(progress)), self._console.file, self._of_job)  # type: ignore[arg-type]  # an IO[str]
            self._last_line_at, self._last_note = now, progress.note


class JsonLines(Display):
    """One object a line, each second at most, and at once when the state changes."""

    def __init__(self, file: TextIO, now: Callable[[], float] = time.monotonic, of_job: bool = False):
        self._file = file
        self._now = now
        self._of_job = of_job
        self._last: tuple[str, str] = ("", "")
        self._last_at = 0.0

    def show(self, progress: Progress) -> None:
        now, at = self._now(), (progress.state, progress.note)
        if at == self._last and now - self._last_at < JSON_EVERY_S:
            return
        self._last, self._last_at = at, now
        _print(json.dumps(progress.to_json()), self._file, self._of_job)  # ASCII: whatever the stream is made for


def _print(line: str, file: TextIO, of_job: bool) -> None:
    """With `of_job` a reader that is gone and a full disk cost no more than the line."""
    try:
        print(line, file=file, flush=True)
    except OSError as error:
        if not of_job:
            raise
        if isinstance(error, BrokenPipeError):
            with suppress(OSError):  # nobody will read the rest: nothing of it may fail at the end of the process
                os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


class LivePicture(Display):
    """Redrawn in place by a thread of its own, so that a slow terminal never holds the job up.

    What is printed meanwhile on a standard stream that goes to a terminal stands above it.
    """

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic, tick_s: float = TICK_S):
        self._console = console
        self._now = now
        self._tick_s = tick_s
        self._screen = Screen(console.file)
        self._told: tuple[Progress, float] | None = None  # the last, and when it came
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="display", daemon=True)
        self._streams: dict[str, TextIO] = {}

    def __enter__(self) -> LivePicture:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream.isatty():
                self._streams[name] = stream
                setattr(sys, name, _Above(self._screen, stream))
        self._thread.start()
        return self

    def show(self, progress: Progress) -> None:
        self._told = (progress, self._now())

    def paint(self) -> None:
        """Draw what was told last, as it is now: the clocks go on."""
        if self._told is None:
            return
        progress, told_at = self._told
        width, height = self._console.size
        passed = self._now() - told_at
        eta_s = None if progress.eta_s is None else max(0.0, progress.eta_s - passed)
        moved = replace(progress, elapsed_s=progress.elapsed_s + passed, eta_s=eta_s)
        ascii_only = not self._console.encoding.lower().startswith("utf")
        lines = frame(moved, width - 1, height - 1, ascii_only, tick=int(self._now() / self._tick_s))
        with self._console.capture() as capture:
            for line in lines:
                self._console.print(line, soft_wrap=True)
        self._screen.paint(capture.get().split("\n")[: len(lines)], width, height)

    def close(self) -> None:
        self._ended.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(JOIN_S)
        with suppress(OSError):
            self._screen.clear()
        for name, stream in self._streams.items():
            setattr(sys, name, stream)
        self._streams.clear()

    def _draw(self) -> None:
        with suppress(OSError):  # the terminal is gone: the job goes on without it
            while not self._ended.wait(self._tick_s):
                self.paint()


class _Above(io.TextIOBase):
    """A standard stream while the picture is there: whole lines go above it."""

    def __init__(self, screen: Screen, stream: TextIO):
        self._screen, self._stream, self._begun = screen, stream, ""

    def write(self, text: str) -> int:
        whole, newline, self._begun = (self._begun + text).rpartition("\n")
        if newline:
            self._screen.above(whole)
        return len(text)

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a read-only attribute there
        return self._stream.encoding
