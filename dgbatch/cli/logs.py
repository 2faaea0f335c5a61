"""`dgbatch logs`: what the processes of a run have said."""

from __future__ import annotations

import textwrap
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dgbatch.cli.options import RunFolder
from dgbatch.runner.terminal.plain import printable

if TYPE_CHECKING:
    from rich.text import Text

    from dgbatch.runner.logs.log_reader import Wanted
    from dgbatch.runner.run_folder import Run

COLOURS = ("cyan", "green", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta", "bright_blue")
LEVEL_COLOURS = {"warning": "yellow", "error": "bold red", "critical": "bold red", "debug": "dim"}
TIME, WHO = 9, 7  # columns of a terminal before the text
Level = Literal["debug", "info", "warning", "error", "critical"]


def logs(
    run: RunFolder,
    workers: Annotated[
        list[str],
        typer.Option(
            "--worker", "-w", metavar="NAME", help="Only this worker: w0, or 0, or driver; may be given again."
        ),
    ] = [],  # noqa: B006  # typer copies it
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="The last submit, and what comes, until it ends."),
    ] = False,
    since: Annotated[
        str, typer.Option("--since", metavar="WHEN", help="90s, 10m, 2h or 1d ago, or a time in UTC: 2026-11-21T16:30.")
    ] = "",
    level: Annotated[Level, typer.Option("--level", help="Nothing below this level.")] = "debug",
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=0, metavar="N", help="Only the last N lines.")] = None,
    shard: Annotated[
        int | None, typer.Option("--shard", min=0, metavar="N", help="Only lines about this shard, or said over it.")
    ] = None,
    submit: Annotated[
        int | None,
        typer.Option("--submit", metavar="N", help="Only the Nth submit or retry of the run; -1 is the last one."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, with all ids.")] = False,
) -> None:
    """Show what the driver and the workers of a run said, with its events, by time; also of workers that died."""
    from dgbatch.runner.logs.log_reader import Logs, Wanted, named_workers
    from dgbatch.runner.logs.log_reader import since as begin
    from dgbatch.runner.run_folder import Run

    opened = Run.open(run)
    found = Logs(opened)
    wanted = Wanted(named_workers(workers, found.workers), level, begin(since) if since else "", shard)
    chosen = _chosen(submit, found.submits)
    lines: Iterable[dict[str, Any]] = found.lines(wanted, chosen)
    if follow:
        lines = _followed(opened, wanted, tail, chosen or (found.submits or [""])[-1])
    elif tail is not None:
        lines = deque(lines, maxlen=tail)
    try:
        _print(lines, found.submits, json)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if not found.chunks and not follow:
        from dgbatch.cli.output import say

        say("there are no logs in this run: nothing has worked on it since dgbatch keeps them")


def _chosen(submit: int | None, submits: list[str]) -> str | None:
    from dgbatch.errors import OptionError

    if submit is None:
        return None
    if submit == 0 or not -len(submits) <= submit <= len(submits):
        raise OptionError(f"--submit {submit}: the logs are of {len(submits)}. The first is 1, the last one is -1.")
    return submits[submit - 1 if submit > 0 else submit]


def _followed(run: Run, wanted: Wanted, tail: int | None, submit: str) -> Iterator[dict[str, Any]]:
    from dgbatch.runner.logs.log_reader import Follow
    from dgbatch.runner.storage.lock import owner

    follow = Follow(run, submit)
    old = [line for line in follow.news() if wanted(line)]
    yield from old if tail is None else old[len(old) - min(tail, len(old)) :]
    yield from filter(wanted, follow.until(lambda: owner(run.path) is None))


def _print(lines: Iterable[dict[str, Any]], submits: list[str], as_json: bool) -> None:
    import json

    from dgbatch.cli.output import console

    if as_json:
        for line in lines:
            print(json.dumps(line, ensure_ascii=False), flush=True)
        return
    screen = console()
    last = None
    for line in lines:
        submit = line.get("submit")
        if submit and submit != last:
            if submit not in submits:
                submits.append(submit)
            screen.print(_heading(submits.index(submit) + 1, submit, screen.is_terminal, screen.width))
            last = submit
        if screen.is_terminal:
            screen.print(_painted(line, screen.width))
        else:
            print(_plain(line), flush=True)


def _heading(number: int, submit: str, is_terminal: bool, width: int) -> Text:
    from rich.text import Text

    from dgbatch.runner.logs.log_reader import opened_at

    at = opened_at(submit)
    said = f"submit {number}, {at[:10]} {at[11:19]} UTC"
    if not is_terminal:
        return Text(f"# {said}")
    return Text(f"── {said} ".ljust(min(width, 80), "─"), style="dim")


def _plain(line: dict[str, Any]) -> str:
    """One line, but for tracebacks and texts of several lines: those go on indented."""
    said_by = printable(f"{line['at'][:23]}Z {line.get('worker', '-')} {line.get('level', 'info')}")
    said = "\n    ".join(_texts(line))
    return f"{said_by} {said}"


def _painted(line: dict[str, Any], width: int) -> Text:
    """Time, worker and text in columns; what does not fit goes on below the text."""
    from rich.text import Text

    worker, level = printable(str(line.get("worker", "-"))), str(line.get("level", "info"))
    number = sum(map(ord, worker)) if not worker[1:].isdigit() else int(worker[1:])
    text = Text(line["at"][11:19] + " ", style="dim")
    text.append(worker[:WHO].ljust(WHO), style="bold" if worker == "driver" else COLOURS[number % len(COLOURS)])
    room = max(20, width - TIME - WHO)
    if level in LEVEL_COLOURS and level != "debug":
        text.append(f"{level} ", style=LEVEL_COLOURS[level])
    used = len(text.plain) - TIME - WHO
    message, *rest = _texts(line)
    first, *more = textwrap.wrap(message, room, initial_indent="." * used) or [""]
    text.append(first[used:])
    for part in rest:
        margin = " " * (len(part) - len(part.lstrip()))
        more += textwrap.wrap(part.lstrip(), room, initial_indent=margin, subsequent_indent=f"{margin}  ") or [""]
    for part in more:
        text.append(f"\n{' ' * (TIME + WHO)}{part}", style="dim" if rest else "")
    return text


def _texts(line: dict[str, Any]) -> list[str]:
    """Message and traceback, line by line; nothing in them moves the cursor."""
    said = str(line.get("message", ""))
    lines = [*said.splitlines(), *str(line.get("trace") or "").splitlines()] or [""]
    return ["".join(c if c.isprintable() else " " if c == "\t" else c.encode("unicode_escape").decode() for c in each)
            for each in lines]  # fmt: skip
