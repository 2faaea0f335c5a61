"""The command line. Each command parses, calls one function of the runner and prints; heavy imports sit inside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from dgbatch.cli.bench import bench
from dgbatch.cli.chaos import chaos
from dgbatch.cli.dashboards import dashboards
from dgbatch.cli.diff import diff
from dgbatch.cli.doctor import doctor
from dgbatch.cli.export import export
from dgbatch.cli.init import init
from dgbatch.cli.logs import logs
from dgbatch.cli.ls import ls
from dgbatch.cli.output import print_error
from dgbatch.cli.plan import plan
from dgbatch.cli.report import report
from dgbatch.cli.retry import retry
from dgbatch.cli.sql import sql
from dgbatch.cli.status import status
from dgbatch.cli.submit import submit
from dgbatch.cli.verify import verify
from dgbatch.errors import DgbatchError

app = typer.Typer(
    name="dgbatch",
    help="Prompts in, completions out: a table of prompts through DiffusionGemma, and proof that no row was lost.",
    epilog="Exit codes: 0 complete, 2 wrong job or input, 3 complete with quarantined rows, 4 failed (submit again to "
    "resume), 5 the run is locked, 130 cancelled.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version and leave.")
) -> None:
    if version:
        from dgbatch import __version__

        typer.echo(f"dgbatch {__version__}")
        raise typer.Exit


for command in (init, plan, submit, status, logs, ls, verify, retry, sql, export, report, diff, chaos, doctor):
    app.command()(command)
app.add_typer(dashboards, name="dashboards")
app.add_typer(bench, name="bench")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code; what a user can mend is printed in a few lines."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        app(args=arguments, prog_name="dgbatch")
    except DgbatchError as error:
        print_error(error, as_json=any(option in arguments for option in ("--json", "--json-lines")))
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `dgbatch sql ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
