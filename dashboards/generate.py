"""Write the dashboards: fleet.json, job.json and engine.json beside this file.

    python -m dashboards.generate

tests/dashboards/test_boards.py fails while a file on disk differs from what these modules say.
"""

from __future__ import annotations

import json
from pathlib import Path

from dashboards.engine import engine
from dashboards.fleet import fleet
from dashboards.job import job

FOLDER = Path(__file__).parent
BOARDS = {"fleet.json": fleet, "job.json": job, "engine.json": engine}


def text(name: str) -> str:
    """One of the files, as it is committed."""
    return json.dumps(BOARDS[name](), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name in BOARDS:
        (FOLDER / name).write_text(text(name), encoding="utf-8")
