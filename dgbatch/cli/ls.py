"""`dgbatch ls`: the runs below a folder."""

from __future__ import annotations

from typing import Annotated

import typer

from dgbatch.cli.options import AsJson


def ls(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where to look.")] = ".", json: AsJson = False
) -> None:
    """List the runs below a folder with their state and counts."""
    import os

    from dgbatch.cli.output import print_json, say, short, show, table
    from dgbatch.errors import RunNotFound
    from dgbatch.runner.status import find_runs, status_of

    if "://" not in folder and not os.path.isdir(folder):
        raise RunNotFound(f"{folder}: no such folder. Name one that has runs below it, such as: dgbatch ls out")
    found = [status_of(run) for run in find_runs(folder)]
    if json:
        print_json({"runs": [{"run": each.path, "name": each.name, **each.to_json()} for each in found]})
    elif not found:
        say(f"no runs below {folder}")
    else:
        columns = ("run", "job", "state", "rows", "expected", "quarantined", "tokens")
        rows = [
            (
                short(each.path),
                each.name,
                each.state,
                each.tally.rows,
                each.expected,
                each.tally.quarantined,
                each.tally.tokens,
            )
            for each in found
        ]
        show(table(columns, rows, right=columns[3:]))
