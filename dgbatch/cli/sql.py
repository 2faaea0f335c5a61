"""`dgbatch sql`: DuckDB over a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgbatch.cli.options import AsJson, RunFolder

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

ROWS = 100  # shown to people; --json and export give all
MOST_CHARACTERS = 600  # of one value on the screen
FOLDED = 36  # cells: a column of long text reads well in so many


def sql(
    run: RunFolder, query: Annotated[str, typer.Argument(metavar="QUERY", help="SQL, in quotes.")], json: AsJson = False
) -> None:
    """Ask a run in SQL: tables completions, quarantine and shards."""
    from dgbatch.cli.output import console, print_json, say, show, table
    from dgbatch.runner.catalog import sql as ask
    from dgbatch.runner.run_folder import Run

    answer = ask(Run.open(run), query)
    if json:
        print_json({"columns": answer.column_names, "rows": _rows(answer)})
        return
    numbers = ("int", "uint", "float", "double", "dec")
    right = [field.name for field in answer.schema if str(field.type).startswith(numbers)]
    screen = console()
    most = MOST_CHARACTERS if screen.is_terminal else None
    rows = [[_cell(value, most) for value in row] for row in _rows(answer.slice(0, ROWS))]
    if _is_narrow(answer.column_names, rows, screen.width):
        show(table(answer.column_names, rows, right))
    else:
        show(*(_record(number, answer.column_names, row) for number, row in enumerate(rows, 1)))
    if answer.num_rows > ROWS:
        say(f"... and {answer.num_rows - ROWS:,} more rows: use --json, limit, or dgbatch export")


def _cell(value: Any, most: int | None) -> str:
    """As SQL has it: a number may be a year or an id, so its digits stay together."""
    if value is None:
        return "-"
    from dgbatch.runner.terminal.plain import printable

    text = printable(f"{value:.4g}" if isinstance(value, float) else str(value))
    return text if most is None or len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def _is_narrow(columns: list[str], rows: list[list[str]], width: int) -> bool:
    """Whether these columns stand beside each other on the screen and can be read, long text folded."""
    widest = [min(FOLDED, max(map(_width, column))) for column in zip(columns, *rows, strict=True)]
    return sum(widest) + 2 * len(widest) <= width


def _width(text: str) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, text.splitlines() or [""]))


def _record(number: int, columns: list[str], row: list[str]) -> Table:
    """One row of a wide answer, a column a line."""
    from rich.table import Table
    from rich.text import Text

    from dgbatch.runner.terminal.plain import printable

    made = Table(title=f"row {number}", title_justify="left", title_style="bold", box=None, show_header=False)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, text in zip(columns, row, strict=True):
        made.add_row(Text(printable(name)), Text(text))
    return made


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
