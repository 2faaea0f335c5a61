"""`dgbatch submit`: run a job, or what is left of it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgbatch.cli.options import AsJson, JobFile, JsonLines, Overrides

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dgbatch.runner.submit import Submitted


def submit(
    job: JobFile,
    overrides: Overrides = [],  # noqa: B006  # typer copies it
    new_run: Annotated[
        bool, typer.Option("--new-run", help="Start anew beside an earlier run: output.path gets -2, -3, ...")
    ] = False,
    json: AsJson = False,
    json_lines: JsonLines = False,
) -> None:
    """Run a job; the same job again goes on where it stopped.

    Exit codes: 0 complete, 2 wrong job or input, 3 complete with quarantined rows, 4 failed, 5 locked, 130 cancelled.
    """
    from rich.console import Console

    from dgbatch.cli.output import leaving, print_json
    from dgbatch.errors import RunCancelled, RunFailed
    from dgbatch.runner import submit as steps
    from dgbatch.runner.terminal.display import display_on
    from dgbatch.runner.watchdog import Watchdog

    as_json = json or json_lines
    shown = display_on(Console(stderr=True, highlight=False), json_lines, of_job=True)
    with shown as display, Watchdog(display, leaving(display, as_json)) as watched:
        try:
            done = steps.submit(job, overrides, new_run, on_progress=watched)
        except (RunCancelled, RunFailed) as error:
            again = ["dgbatch", "submit", job, *(part for text in overrides for part in ("--set", text))]
            again += ["--set", f"output.path={display.path}"] if new_run and display.path else []
            raise type(error)(f"{error}\nresume: {shlex.join(again)}") from error
    if as_json:
        print_json({**done.status.to_json(), "run": done.run.path, "exit_code": done.exit_code})
    screen = Console(stderr=as_json, highlight=False, emoji=False)
    for part in summary(done):
        screen.print(part, soft_wrap=isinstance(part, str), markup=False)
    raise typer.Exit(done.exit_code)


def summary(done: Submitted) -> list[RenderableType]:
    """What a new user sees at the end: what came out, where it lies, what to try next."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from dgbatch.cli.output import invoked_as, short

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _lines(done):
        grid.add_row(name, value)
    completed = f"{'already ' if done.was_complete else ''}{done.status.state}"
    style = "yellow" if done.status.tally.quarantined else "green"
    title = Text.assemble((f" {done.status.name}: {completed} ", f"bold {style}"))
    run, me = shlex.quote(short(done.run.path)), shlex.quote(invoked_as())
    return [
        Panel(grid, title=title, title_align="left", border_style=style, width=80),
        "next, try:",
        f"  {me} verify {run}",
        f'  {me} sql {run} "{_query(done)}"',
        *([f"  {me} retry {run}"] if done.status.tally.quarantined else []),
        f"  {me} export {run} {shlex.quote(done.status.name)}.jsonl",
    ]


def _lines(done: Submitted) -> list[tuple[str, Any]]:
    from rich.text import Text

    from dgbatch.cli.curve import in_flight
    from dgbatch.cli.output import short
    from dgbatch.cli.status import share
    from dgbatch.cli.verify import equation
    from dgbatch.runner.terminal.plain import clock, rate

    tally, spec = done.status.tally, done.run.spec
    lines: list[tuple[str, Any]] = [("rows", f"{tally.ok:,} ok, {tally.quarantined:,} quarantined")]
    if done.status.judged:
        lines.append(("accepted", Text(share(tally.accepted, tally.ok), style="bold")))
    lines.append(("tokens", f"{tally.tokens:,} generated, {rate(done.status.tokens_per_s)} per second"))
    if tally.steps_per_canvas is not None:
        lines.append(("canvases", f"{tally.canvases:,}, {tally.steps_per_canvas:.1f} denoising steps each"))
    lines += [("in flight", line) for line in in_flight(done.run.canvases)]
    if not done.was_complete:
        before = f" ({done.rows_before:,} rows were there already)" if done.rows_before else ""
        lines.append(("wall time", clock(done.seconds) + before))
    if done.verification is not None:
        lines.append(("verified", equation(done.verification).removesuffix(", checksum errors 0")))
    if tally.ok:
        lines.append(("data", f"{short(done.run.path)}/data/*.{spec.output.format}"))
    if tally.quarantined:
        lines.append(("quarantine", f"{short(done.run.path)}/quarantine/*.{spec.output.format}"))
    if spec.output.duckdb:
        lines.append(("duckdb", short(spec.output.duckdb)))
    if done.report:
        lines.append(("report", short(done.report)))
    return lines


def _query(done: Submitted) -> str:
    if done.status.tally.quarantined:
        return "select error_code, count(*) from quarantine group by 1"
    if done.status.judged:
        return "select count(*), avg(accepted::int) from completions"
    return "select id, text from completions limit 5"
