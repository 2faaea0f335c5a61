"""`dgbatch status`: where a run stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dgbatch.cli.options import RunFolder

if TYPE_CHECKING:
    from dgbatch.runner.run_folder import Run
    from dgbatch.runner.status import Status


def status(
    run: RunFolder,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Show how it goes until it ends, and leave with the exit code of its submit."),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output; with --watch, one a line.")
    ] = False,
) -> None:
    """Show the state, counts and speed of a run, while it works and afterwards."""
    from dgbatch.cli.output import print_json
    from dgbatch.runner.run_folder import Run
    from dgbatch.runner.status import status_of

    opened = Run.open(run)
    found = _watched(opened, json) if watch else status_of(opened)
    if json:
        print_json({**found.to_json(), **({"run": found.path, "exit_code": found.exit_code} if watch else {})})
    else:
        _show(found)
    if watch:
        raise typer.Exit(found.exit_code)


def _watched(run: Run, json: bool) -> Status:
    from rich.console import Console

    from dgbatch.runner.terminal.display import display_on
    from dgbatch.runner.terminal.watch import watch

    with display_on(Console(highlight=False), json) as display:
        try:
            return watch(run, display)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def _show(found: Status) -> None:
    from dgbatch.cli.output import plural, show, shown, table
    from dgbatch.runner.terminal.plain import clock, rate

    tally = found.tally
    rows = [
        ("state", found.state + (f" ({found.reason})" if found.reason else "")),
        ("rows", f"{tally.rows:,} of {found.expected:,}: {tally.ok:,} ok, {tally.quarantined:,} quarantined"),
        ("shards", f"{tally.shards:,} of {found.shards:,}"),
        ("tokens", f"{tally.tokens:,}, {rate(found.tokens_per_s)} per second"),
    ]
    if found.judged:
        rows.insert(2, ("accepted", share(tally.accepted, tally.ok)))
    if found.eta_s is not None:
        rows.append(("workers", f"{plural(found.workers, 'worker')}, done in {clock(found.eta_s)}"))
    show(table(("run", shown(found.name)), rows))


def share(part: int, whole: int) -> str:
    """987 of 1,000 (98.7 %)."""
    return f"{part:,} of {whole:,} ({part / whole:.1%})" if whole else "none"
