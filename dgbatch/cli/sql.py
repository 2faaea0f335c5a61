"""`dgbatch sql`: DuckDB over a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgbatch.cli.options import AsJson, RunFolder

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 1000  # shown to people; --json and export give all


def sql(
    run: RunFolder, query: Annotated[str, typer.Argument(metavar="QUERY", help="SQL, in quotes.")], json: AsJson = False
) -> None:
    """Ask a run in SQL: tables completions, quarantine and shards."""
    from dgbatch.cli.output import print_json, say, show, table
    from dgbatch.runner.catalog import sql as ask
    from dgbatch.runner.run_folder import Run

    answer = ask(Run.open(run), query)
    if json:
        print_json({"columns": answer.column_names, "rows": _rows(answer)})
        return
    numbers = ("int", "uint", "float", "double", "dec")
    right = [field.name for field in answer.schema if str(field.type).startswith(numbers)]
    show(table(answer.column_names, _rows(answer.slice(0, ROWS)), right))
    if answer.num_rows > ROWS:
        say(f"... and {answer.num_rows - ROWS:,} more rows: use --json, limit, or dgbatch export")


def _rows(answer: pa.Table) -> list[tuple[Any, ...]]:
    """By position: two columns of an answer may have one name."""
    return list(zip(*(column.to_pylist() for column in answer.columns), strict=True))
