"""What benchmarks print and write where our command line's packages are not installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dgbatch.errors import BenchError


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns two spaces apart; all but the first `left` hold numbers."""
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        placed = zip(cells, widths, strict=True)
        parts = (cell.ljust(to) if index < left else cell.rjust(to) for index, (cell, to) in enumerate(placed))
        return (" " + "  ".join(parts)).rstrip()

    return "\n".join([line(columns), " " + "─" * (sum(widths) + 2 * len(widths) - 2), *map(line, rows)])


def say(line: str) -> None:
    """For people, on standard error."""
    print(line, file=sys.stderr, flush=True)


def write(told: Mapping[str, Any], path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def has_folder(*paths: Path | None) -> None:
    """What would fail after minutes of measuring fails now. Raises BenchError."""
    for path in filter(None, paths):
        if not path.absolute().parent.is_dir():
            raise BenchError(f"{path}: no folder {path.absolute().parent}; make it first")
