"""A Progress as a picture for a terminal, in whatever room there is. screen.py knows how it gets there.

Nothing is told by colour alone, for NO_COLOR and for eyes that see none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from textwrap import wrap

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from dgbatch.runner.progress import Problem, Progress, WorkerView
from dgbatch.runner.terminal.plain import clock, plural, printable, rate, steps

NARROW = 60  # columns: below, what stood side by side stands in lines of its own
SILENT_S = 10.0  # a worker at work that has made no step for so long is pointed at
TIMES = 2  # problems that have their place even where workers have to leave theirs

SPARKS = "▁▂▃▄▅▆▇█", "_.-=+*%#"
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "-\\|/"
BAR = ("━", "╸", "─"), ("=", "-", ".")
PHASE_LOOKS = {  # mark, mark in ASCII, colour
    "denoise": ("█", "#", "cyan"),
    "prefill": ("▓", "+", "blue"),
    "sample": ("▒", "=", "magenta"),
    "waiting": ("░", ".", "yellow"),
}
OTHER_LOOK = ("▚", "o", "white")
STATE_STYLES = {"starting": "yellow", "working": "green", "idle": "dim", "leaving": "yellow"}


def frame(progress: Progress, width: int, height: int, ascii_only: bool = False, tick: int = 0) -> list[Text]:
    """At most so many lines of at most so many cells. tick: moves the spinner."""
    head = _head(progress, width)
    if progress.expected:
        head += _bar(progress, width, ascii_only)
    if progress.workers or progress.rows:
        head += _figures(progress, width, ascii_only)
    note = []
    if progress.note and not (progress.problems and progress.note == progress.problems[-1].text):
        turning = SPINNER[ascii_only]
        note = [Text.assemble((turning[tick % len(turning)], "yellow"), " ", (progress.note, "yellow"))]
    room = height - len(head) - len(note)
    least = min(len(progress.problems), TIMES) + 1 if progress.problems else 0
    crew = _crew(progress.crew, width, max(0, room - 1 - least - bool(least)))
    room -= len(crew) + bool(crew)
    shown = _problems(progress.problems, width, room - 2)
    lines = head
    lines += [Text(), *crew] if crew else []
    lines += [Text(), Text("last errors", style="bold red"), *shown] if shown else []
    lines += note
    return [_fit(line, width, ascii_only) for line in lines[:height]]


def _head(progress: Progress, width: int) -> list[Text]:
    right = clock(progress.elapsed_s)
    if progress.crew and width >= NARROW:
        right = f"{plural(progress.workers, 'worker')}   {right}"
    left = Text(progress.name, style="bold")
    if progress.metrics_url and width >= NARROW:
        left = Text.assemble(left, (f"   {progress.metrics_url}", "dim"))
    return [_ends(left, Text(right, style="dim"), width)]


def _bar(progress: Progress, width: int, ascii_only: bool) -> list[Text]:
    share = min(1.0, progress.rows / progress.expected)
    count = Text.assemble((f"{progress.rows:,}", "bold"), f" / {progress.expected:,} rows")
    percent = f"{int(100 * share)}%"  # 100 % is when all are done
    if width < NARROW:
        line = _progress_bar(share, width - 5, ascii_only)
        return [Text.assemble(line, f" {percent:>4}"), _ends(count, _eta(progress), width)]
    eta = _eta(progress)
    tail = Text.assemble("  ", count, f"  {percent:>4}", "  " if eta else "", eta)
    return [Text.assemble(_progress_bar(share, width - tail.cell_len, ascii_only), tail)]


def _eta(progress: Progress) -> Text:
    if progress.state != "in_progress":
        return Text()
    return Text.assemble("ETA ", (clock(progress.eta_s), "bold"))


def _progress_bar(share: float, width: int, ascii_only: bool) -> Text:
    full, half, empty = BAR[ascii_only]
    halves = int(share * max(1, width) * 2)
    done = full * (halves // 2) + half * (halves % 2)
    return Text.assemble((done, "green" if share == 1 else "cyan"), (empty * (width - len(done)), "dim"))


def _figures(progress: Progress, width: int, ascii_only: bool) -> list[Text]:
    now, mean = rate(progress.tokens_per_s), rate(progress.mean_tokens_per_s)
    speed = Text.assemble(("tokens/s  ", "dim"), (now, "bold"), f" now  {mean} mean")
    shards = Text.assemble(("shards  ", "dim"), f"{progress.shards_done:,} of {progress.shards:,}")
    lost = Text(f"{progress.quarantined:,} quarantined", style="red") if progress.quarantined else Text()
    settling = Text.assemble(("steps/canvas  ", "dim"), (steps(progress.steps_per_canvas), "bold"))
    lines = _flow([speed, shards, *([lost] if lost else [])], 5, width)
    if points := progress.recent_steps:
        scale = f"  {min(points):.1f} to {max(points):.1f}"
        spark = sparkline(points, min(60, width - settling.cell_len - 2 - len(scale)), ascii_only)
        settling = Text.assemble(settling, "  ", (spark, "cyan"), (scale, "dim"))
    lines.append(settling)
    if progress.shares:
        lines += _shares(progress.shares, width, ascii_only)
    return lines


def sparkline(points: Sequence[float], width: int, ascii_only: bool = False) -> str:
    """The last points as blocks from the lowest to the highest; all alike stand in the middle."""
    marks, points = SPARKS[ascii_only], points[-width:] if width > 0 else []
    if not points:
        return ""
    low, high = min(points), max(points)
    if high == low:
        return marks[3] * len(points)
    return "".join(marks[round((point - low) / (high - low) * (len(marks) - 1))] for point in points)


def _shares(shares: Mapping[str, float], width: int, ascii_only: bool) -> list[Text]:
    """Where the workers' time went: a bar, and what its parts are."""
    looks = {phase: PHASE_LOOKS.get(phase, OTHER_LOOK) for phase in shares}
    parts = [
        Text.assemble((f"{looks[phase][ascii_only]} ", looks[phase][2]), f"{phase} {share:.0%}")
        for phase, share in shares.items()
    ]
    legend = _flow(parts, 2, width)
    side_by_side = width >= NARROW and len(legend) == 1
    bar = Text.assemble(("time  ", "dim"))
    cells = max(10, min(60, width - 8 - legend[0].cell_len)) if side_by_side else width - 6
    for (phase, _), count in zip(shares.items(), _cells(list(shares.values()), cells), strict=True):
        bar.append(looks[phase][ascii_only] * count, style=looks[phase][2])
    return [Text.assemble(bar, "  ", *legend)] if side_by_side else [bar, *legend]


def _cells(shares: Sequence[float], cells: int) -> list[int]:
    """Whole cells that add up to all of them."""
    ends = [round(sum(shares[: i + 1]) * cells) for i in range(len(shares))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


# ---- workers


def _crew(crew: Sequence[WorkerView], width: int, room: int) -> list[Text]:
    """The table of workers: those that something is the matter with first, where not all have room."""
    if not crew or room < 2:
        return []
    shown = list(crew)
    if len(shown) > room - 1:
        shown = sorted(crew, key=_turn)[: max(0, room - 2)]
        shown.sort(key=crew.index)
    columns = ["worker", "rows", "tokens/s", "state"]
    if width >= NARROW:
        columns = ["worker", "state", "tokens/s", "rows", "canvases", "time", "device"]
    rows = [[_cell(worker, column) for column in columns] for worker in shown]
    widths = [max(cell_len(text) for text in column) for column in zip(columns, *rows, strict=True)]
    lines = [_row(columns, columns, widths, "dim")]
    for worker, row in zip(shown, rows, strict=True):
        style = STATE_STYLES[worker.state] if _doing(worker) == worker.state else "yellow"
        lines.append(_row(columns, row, widths, style))
    if rest := [worker for worker in crew if worker not in shown]:
        states = Counter(_doing(worker) for worker in rest).most_common()
        told = ", ".join(f"{number:,} {state}" for state, number in states)
        lines.append(Text(f"and {len(rest):,} more: {told}", style="dim"))
    return lines


def _turn(worker: WorkerView) -> int:
    """Where something is the matter comes first, then those at work."""
    doing = _doing(worker)
    return 0 if doing != worker.state else {"starting": 1, "leaving": 1, "working": 2}.get(doing, 3)


def _row(columns: Sequence[str], cells: Sequence[str], widths: Sequence[int], style: str) -> Text:
    """state: what the style is for; "worker" and a heading: all of it."""
    line = Text()
    for column, cell, width in zip(columns, cells, widths, strict=True):
        pad = " " * (width - cell_len(cell))
        text = pad + cell if column in ("tokens/s", "rows", "canvases") else cell + pad
        line.append(text, style=style if cells is columns or column == "state" else "")
        line.append("  ")
    line.rstrip()
    return line


def _cell(worker: WorkerView, column: str) -> str:
    if column == "worker":
        return worker.name
    if column == "state":
        return _doing(worker)
    if column == "tokens/s":
        return rate(worker.tokens_per_s)
    if column == "rows":
        return f"{worker.rows:,}"
    if column == "canvases":
        return f"{worker.canvases:,}" if worker.canvases else "-"
    if column == "time":
        return "  ".join(f"{phase} {share:.0%}" for phase, share in list(worker.shares.items())[:1]) or "-"
    return worker.device or "-"


def _doing(worker: WorkerView) -> str:
    if worker.state == "working" and worker.since_step_s >= SILENT_S:
        return f"no step for {clock(worker.since_step_s)}"
    return worker.state


# ---- lines


def _problems(problems: Sequence[Problem], width: int, room: int) -> list[Text]:
    """The newest ones, each whole where all have room, else in a line each."""
    whole = [
        Text.assemble((f"{_time(problem)} " if not number else " " * 9, "dim"), part)
        for problem in problems
        for number, part in enumerate(wrap(problem.text, max(10, width - 9)))
    ]
    if len(whole) <= room:
        return whole
    lines = [Text.assemble((f"{_time(problem)} ", "dim"), " ".join(problem.text.split())) for problem in problems]
    return lines[-room:] if room > 0 else []


def _time(problem: Problem) -> str:
    return f"{datetime.fromisoformat(problem.at).astimezone():%H:%M:%S}"


def _ends(left: Text, right: Text, width: int) -> Text:
    """One at each end of the line; the left one gives way."""
    room = width - right.cell_len - 1
    left = left.copy()
    left.truncate(max(0, room), overflow="ellipsis", pad=True)
    return Text.assemble(left, " ", right)


def _flow(parts: Sequence[Text], gap: int, width: int) -> list[Text]:
    """Side by side, and in more lines where they have no room."""
    lines = [Text()]
    for part in parts:
        if lines[-1] and lines[-1].cell_len + gap + part.cell_len > width:
            lines.append(Text())
        lines[-1].append(" " * gap if lines[-1] else "")
        lines[-1].append_text(part)
    return lines


def _fit(line: Text, width: int, ascii_only: bool) -> Text:
    if (said := printable(line.plain).replace("\n", " ")) != line.plain:
        line.plain = said
    if ascii_only and not line.plain.isascii():
        line.plain = line.plain.encode("ascii", "replace").decode()
    if line.cell_len <= width:
        return line
    if ascii_only:
        line.plain = set_cell_size(line.plain, max(0, width - 3)) + "..."
    line.truncate(width, overflow="ellipsis")
    return line
