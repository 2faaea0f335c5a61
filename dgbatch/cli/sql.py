"""`dgbatch sql`: DuckDB over a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgbatch.cli.options import AsJson, RunFolder

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 100  # shown to people; --json and export give all


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
    return list(zip(*map(_values, answer.column_names, answer.columns), strict=True))


def _values(name: str, column: pa.ChunkedArray) -> list[Any]:
    """As text where Python has no such value: a time of nanoseconds, the year 20,000."""
    import pyarrow as pa

    from dgbatch.errors import QueryError

    try:
        return column.to_pylist()
    except (ValueError, OverflowError) as error:
        try:
            return column.cast(pa.string()).to_pylist()
        except (pa.ArrowException, ValueError):
            raise QueryError(f"SQL: column {name!r} cannot be shown: {error}. Leave it out, or use export.") from None
