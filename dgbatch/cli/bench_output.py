"""What the benchmarks share: where a device is named, and where what they find goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the JSON object to this file too.")]
Plot = Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw it; needs matplotlib: dgbatch[bench].")]


def typed() -> str:
    """What was typed."""
    import shlex
    import sys

    return shlex.join(["dgbatch", *sys.argv[1:]])


def check(out: Path | None, plot: Path | None) -> None:
    """What would fail after minutes of measuring fails now: BenchError for a folder or matplotlib that is not there."""
    from dgbatch.bench import plot as drawing
    from dgbatch.errors import BenchError

    drawing.check(plot)
    for path in filter(None, (out, plot)):
        if not path.absolute().parent.is_dir():
            raise BenchError(f"{path}: no folder {path.absolute().parent}; make it first")


def tell(
    told: dict[str, Any],
    columns: tuple[str, ...],
    rows: list[tuple[str, ...]],
    lines: list[str],
    out: Path | None,
    plot: Path | None,
    as_json: bool,
    left: int | None = None,
) -> None:
    """Print what was measured as a table and findings, or as JSON; write and draw it where that was asked for.

    left: of a table that takes all of 80 columns, how many of its own hold no numbers
    """
    import json

    from dgbatch.bench import plain
    from dgbatch.bench import plot as drawing
    from dgbatch.cli.output import print_json, show, table

    if out:
        out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if plot:
        drawing.plot(told, plot)
    if as_json:
        print_json(told)
    elif left is not None:
        show(plain.table(columns, rows, left), "", *lines)
    else:
        show(table(columns, rows, right=columns[1:] if columns[0] == "what" else columns[2:]), *lines)
