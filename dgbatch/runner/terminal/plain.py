"""A Progress in one line, for logs, and how numbers are written for people."""

from __future__ import annotations

import re

from dgbatch.runner.progress import Progress

# What moves a terminal's cursor or turns the direction of a text; and half a surrogate pair, which no terminal takes.
MOVES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Nothing in it moves the cursor but the end of a line: what rows, ids and errors hold goes to a terminal."""
    text = text.replace("\r\n", "\n").replace("\t", " ")
    return MOVES.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


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


def plural(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def steps(per_canvas: float | None) -> str:
    return "-" if per_canvas is None else f"{per_canvas:.1f}"


def plain_line(progress: Progress) -> str:
    """What the live display shows of the whole run."""
    if progress.state != "in_progress" or not (progress.workers or progress.rows):
        return f"{progress.name}: {progress.note or progress.state}"
    share = progress.rows / progress.expected if progress.expected else 1.0
    parts = [
        f"{progress.rows:,}/{progress.expected:,} rows ({share:.0%})",
        f"{rate(progress.tokens_per_s)} tokens/s",
        f"{steps(progress.steps_per_canvas)} steps/canvas",
        f"ETA {clock(progress.eta_s)}",
        plural(progress.workers, "worker"),
    ]
    if progress.quarantined:
        parts.append(f"{progress.quarantined:,} quarantined")
    if progress.note:
        parts.append(progress.note)
    return f"{progress.name}: " + ", ".join(parts)
