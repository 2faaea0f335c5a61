"""What a running job shows: a live display on a terminal, one plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

State = Literal["validating", "in_progress", "finalizing", "completed", "failed", "cancelled"]
PLAIN_EVERY_S = 10.0  # seconds between two plain lines
WINDOW_S = 20.0  # rates are those of the last seconds: long enough to be calm, short enough to follow a lost worker


@dataclass(frozen=True, slots=True)
class Progress:
    """A run at one moment, work in flight included."""

    state: State
    name: str
    path: str
    expected: int = 0  # rows times samples
    rows: int = 0  # completed or quarantined
    quarantined: int = 0  # in committed shards
    shards: int = 0
    shards_done: int = 0
    tokens_per_s: float | None = None
    rows_per_s: float | None = None
    steps_per_canvas: float | None = None
    workers: int = 0  # at work
    elapsed_s: float = 0.0
    note: str = ""  # what is going on when it is not plain work, or what has just happened
    metrics_url: str = ""  # where the metrics are

    @property
    def eta_s(self) -> float | None:
        return (self.expected - self.rows) / self.rows_per_s if self.rows_per_s else None


OnProgress = Callable[[Progress], None]


class Rates:
    """Rows and tokens per second over the last moments, from running totals. The caller brings the clock."""

    def __init__(self, window_s: float = WINDOW_S):
        self.window_s = window_s
        self._seen: deque[tuple[float, int, int]] = deque()

    def add(self, now: float, rows: int, tokens: int) -> None:
        """Totals at this moment. One that fell, because a worker took its open rows with it, starts the window anew."""
        if self._seen and (rows < self._seen[-1][1] or tokens < self._seen[-1][2]):
            self._seen.clear()
        self._seen.append((now, rows, tokens))
        while len(self._seen) > 2 and self._seen[1][0] <= now - self.window_s:
            self._seen.popleft()

    @property
    def rows_per_s(self) -> float | None:
        return self._per_s(1)

    @property
    def tokens_per_s(self) -> float | None:
        return self._per_s(2)

    def _per_s(self, which: int) -> float | None:
        if len(self._seen) < 2:
            return None
        first, last = self._seen[0], self._seen[-1]
        seconds = last[0] - first[0]
        return (last[which] - first[which]) / seconds if seconds > 0 and last[which] > first[which] else None


def clock(seconds: float | None) -> str:
    """75 -> 1:15, 7261 -> 2:01:01, None -> --:--."""
    if seconds is None:
        return "--:--"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def rate(per_s: float | None) -> str:
    if per_s is None:
        return "-"
    return f"{per_s:,.0f}" if per_s >= 10 else f"{per_s:.1f}"


def plain_line(progress: Progress) -> str:
    """One line for logs: everything the live display shows."""
    if progress.state != "in_progress" or not (progress.workers or progress.rows):
        return f"{progress.name}: {progress.note or progress.state}"
    share = progress.rows / progress.expected if progress.expected else 1.0
    parts = [
        f"{progress.rows:,}/{progress.expected:,} rows ({share:.0%})",
        f"{rate(progress.tokens_per_s)} tokens/s",
        f"{_steps(progress)} steps/canvas",
        f"ETA {clock(progress.eta_s)}",
        f"{progress.workers} worker{'s' if progress.workers != 1 else ''}",
    ]
    if progress.quarantined:
        parts.append(f"{progress.quarantined:,} quarantined")
    if progress.note:
        parts.append(progress.note)
    return f"{progress.name}: " + ", ".join(parts)


def panel(progress: Progress) -> RenderableType:
    """A few calm lines: what, how far, how fast, and what is going on."""
    head = Table.grid(expand=True)
    head.add_column(ratio=1)
    head.add_column(justify="right", no_wrap=True)
    crew = f"{progress.workers} worker{'s' if progress.workers != 1 else ''}   " if progress.workers else ""
    head.add_row(Text(progress.name, style="bold"), Text(f"{crew}{clock(progress.elapsed_s)}", style="dim"))
    lines: list[RenderableType] = [head]
    if progress.expected:
        share = progress.rows / progress.expected
        bar = Table.grid(expand=True, padding=(0, 1))
        bar.add_column(ratio=1)
        bar.add_column(justify="right", no_wrap=True)
        bar.add_column(justify="right", no_wrap=True)
        bar.add_row(
            ProgressBar(progress.expected, progress.rows, complete_style="cyan", finished_style="green"),
            f"[bold]{progress.rows:,}[/] / {progress.expected:,} rows",
            f"{share:4.0%}",
        )
        lines.append(bar)
    if progress.workers:
        lines.append(_figures(progress))
    if progress.quarantined:
        rows = "row" if progress.quarantined == 1 else "rows"
        lines.append(Text(f"{progress.quarantined:,} {rows} quarantined", style="red"))
    if progress.metrics_url:
        lines.append(Text(f"metrics  {progress.metrics_url}", style="dim", no_wrap=True, overflow="ellipsis"))
    if progress.note:
        lines.append(Spinner("dots", Text(progress.note, style="yellow")))
    return Group(*lines)


def _figures(progress: Progress) -> Table:
    figures = Table.grid(expand=True, padding=(0, 1))
    for _ in range(4):
        figures.add_column(no_wrap=True)
    figures.add_row(
        f"[bold]{rate(progress.tokens_per_s)}[/] tokens/s",
        f"[bold]{_steps(progress)}[/] steps per canvas",
        f"{progress.shards_done:,}/{progress.shards:,} shards",
        f"ETA [bold]{clock(progress.eta_s)}[/]",
    )
    return figures


def _steps(progress: Progress) -> str:
    return "-" if progress.steps_per_canvas is None else f"{progress.steps_per_canvas:.1f}"


class Display:
    """Shows each Progress it is called with; a context manager, so that the terminal is left tidy whatever happens."""

    def __init__(self, console: Console | None = None, now: Callable[[], float] = time.monotonic):
        self._console = console or Console(stderr=True, highlight=False)
        self._now = now
        self._live: Live | None = None
        self._last_line_at: float | None = None
        self._last_note = ""
        self.path = ""  # of the run, as soon as it is known

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=True, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        self.path = progress.path
        if self._live:
            self._live.update(panel(progress))
            return
        now = self._now()
        fresh_note = bool(progress.note) and progress.note != self._last_note
        due = self._last_line_at is None or now - self._last_line_at >= PLAIN_EVERY_S
        if fresh_note or (due and progress.state == "in_progress"):
            self._console.print(plain_line(progress), soft_wrap=True, markup=False)
            self._last_line_at, self._last_note = now, progress.note
