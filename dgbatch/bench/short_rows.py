"""Millions of short rows for the runner to work on: Parquet, and the job that turns each into a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FILE_ROWS = 1_000_000
GROUP_ROWS = 100_000  # of a row group
TOPICS = ("sums", "maps", "birds", "tides", "rails")
TEMPLATE = """\
Topic: {{ topic | upper }}
{% if number % 2 %}
This one is odd, take care.
{% endif %}
Question {{ number }}: {{ question }}
Answer in one line.
"""


def write(folder: Path, rows: int, first: int = 0, file_rows: int = FILE_ROWS) -> None:
    """Rows [first, first + rows) in files of at most `file_rows`."""
    folder.mkdir(parents=True, exist_ok=True)
    end = first + rows
    for start in range(first, end, file_rows):
        stop = min(start + file_rows, end)
        with pq.ParquetWriter(folder / f"rows-{start:09d}.parquet", _rows(0, 0).schema) as file:
            for group in range(start, stop, GROUP_ROWS):
                file.write_table(_rows(group, min(group + GROUP_ROWS, stop)), row_group_size=GROUP_ROWS)


def _rows(start: int, stop: int) -> pa.Table:
    numbers = pa.array(range(start, stop), pa.int64())
    texts = numbers.cast(pa.string())
    return pa.table(
        {
            "id": pc.binary_join_element_wise("row", pc.utf8_lpad(texts, 9, "0"), "-"),
            "question": pc.binary_join_element_wise("What is ", texts, " plus ", texts, "?", ""),
            "topic": pa.array(TOPICS).take(pa.array((n % len(TOPICS) for n in range(start, stop)), pa.int64())),
            "number": numbers,
        }
    )


def job(rows: Path, out: Path, checkpoint: Path, workers: int, canvases: int) -> dict[str, Any]:
    """The job file as plain data: a template of one condition and three columns, one column carried along."""
    return {
        "version": 1,
        "name": "short-rows",
        "model": {"checkpoint": str(checkpoint)},
        "input": {"path": str(rows), "id": "id"},
        "prompt": {"template": TEMPLATE},
        "output": {"path": str(out), "columns": ["topic"]},
        "workers": {"count": workers, "gpus": 0, "canvases": canvases},
    }
