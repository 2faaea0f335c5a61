"""`dgbatch retry`: the quarantined rows of a run, once more."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from dgbatch.cli.options import AsJson, JsonLines, Overrides, RunFolder

if TYPE_CHECKING:
    from dgbatch.runner.retry import Quarantine, Retried

Codes = Annotated[
    list[str], typer.Option("--code", metavar="CODE", help="Only rows with this error code; may be given again.")
]


def retry(
    run: RunFolder,
    codes: Codes = [],  # noqa: B006  # typer copies it
    overrides: Overrides = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run again, and leave.")] = False,
    json: AsJson = False,
    json_lines: JsonLines = False,
) -> None:
    """Run the quarantined rows of a complete run again, into the same run.

    Exit codes as of submit: 0 nothing is left in quarantine, 3 some rows are, 4 failed, 5 locked, 130 cancelled.
    """
    from rich.console import Console

    from dgbatch.cli.output import leaving, print_json, show
    from dgbatch.errors import RunCancelled, RunFailed
    from dgbatch.runner import retry as steps
    from dgbatch.runner.run_folder import Run
    from dgbatch.runner.terminal.display import display_on
    from dgbatch.runner.watchdog import Watchdog

    if dry_run:
        left = steps.quarantine(Run.open(run), codes)
        if json or json_lines:
            print_json({"run": run, "quarantined": dict(left.codes), "would_retry": left.samples})
        else:
            show(*plan_lines(left))
        raise typer.Exit(0)
    as_json = json or json_lines
    shown = display_on(Console(stderr=True, highlight=False), json_lines, of_job=True)
    with shown as display, Watchdog(display, leaving(display, as_json)) as watched:
        try:
            done = steps.retry(run, codes, overrides, on_progress=watched)
        except (RunCancelled, RunFailed) as error:
            again = [f"--code {shlex.quote(code)}" for code in codes] + [
                f"--set {shlex.quote(text)}" for text in overrides
            ]
            command = " ".join(["dgbatch retry", shlex.quote(run), *again])
            raise type(error)(f"{error}\ntry again: {command}") from error
    if as_json:
        answer = {**done.status.to_json(), "run": run, "retried": done.tried, "mended": done.mended}
        print_json({**answer, "exit_code": done.status.exit_code})
    else:
        show(*summary(done))
    raise typer.Exit(done.status.exit_code)


def plan_lines(left: Quarantine) -> list[str]:
    """What is in quarantine, commonest error first, and what of it would be run."""
    from dgbatch.cli.output import plural

    lines = [f"{rows:>9,}  {code}" for code, rows in left.codes.most_common()]
    shards = f" in {plural(len(left.due), 'shard')}" if left.due else ""
    return [*lines, f"{plural(left.samples, 'row')}{shards} would be run again"]


def summary(done: Retried) -> list[str]:
    """How many came through, and the proof of all rows."""
    from dgbatch.cli.output import plural
    from dgbatch.cli.verify import equation
    from dgbatch.runner.terminal.plain import clock

    if done.verification is None:
        return ["0 rows in quarantine: nothing to retry"]
    left = f"{plural(done.status.tally.quarantined, 'row')} in quarantine now"
    return [
        f"{plural(done.tried, 'row')} run again in {clock(done.seconds)}: {done.mended:,} came through, {left}",
        f"verified: {equation(done.verification)}",
    ]
