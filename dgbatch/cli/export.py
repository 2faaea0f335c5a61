"""`dgbatch export`: the dataset in one file."""

from __future__ import annotations

from typing import Annotated

import typer

from dgbatch.cli.options import AsJson, RunFolder

FORMATS = {".parquet": "parquet", ".jsonl": "jsonl", ".csv": "csv", ".duckdb": "duckdb", ".db": "duckdb"}


def export(
    run: RunFolder,
    target: Annotated[str, typer.Argument(metavar="FILE", help="Where to write; the ending says the format.")],
    format: Annotated[str | None, typer.Option(help="parquet, jsonl, csv or duckdb, whatever the ending.")] = None,
    json: AsJson = False,
) -> None:
    """Write the completions to one Parquet, JSONL, CSV or DuckDB file."""
    import os

    from dgbatch.cli.output import print_json, say
    from dgbatch.errors import OutputError
    from dgbatch.runner.export import export as write
    from dgbatch.runner.run_folder import Run

    ending = os.path.splitext(target)[1]
    kind = format or FORMATS.get(ending, "")
    if kind not in FORMATS.values():
        known = ", ".join(dict.fromkeys(FORMATS.values()))
        raise OutputError(
            f"{target}: no format is called {kind or ending or 'nothing'!r}. Use --format with one of {known}."
        )
    found = Run.open(run)
    rows = write(found, target, kind)
    complete = found.succeeded
    if json:
        print_json({"file": target, "format": kind, "rows": rows, "complete": complete})
    say(f"wrote {rows:,} rows to {target}")
    if not complete:
        say(f"the run is not complete: {found.plan.expected:,} rows are expected, see dgbatch status {run}")
