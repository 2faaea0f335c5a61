"""The report of a million rows comes in seconds, has a few MB, and takes no more memory than one of a tenth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dgbatch.runner.run_folder import Run
from tests.runner.made_up import made_up_job, made_up_run
from tests.runner.test_resume_at_scale import crowded

LIMIT_S, LIMIT_MB, MORE_MB, PAGE_BYTES = 12.0, 400.0, 50.0, 4e6
MEASURED = """
import json, re, sys, time
from dgbatch.cli import main
started = time.monotonic()
try:
    main(["report", sys.argv[1]])
except SystemExit as left:
    # ru_maxrss would begin with that of the process that started this one
    peak_mb = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
    print(json.dumps({"code": left.code, "seconds": time.monotonic() - started, "peak_mb": peak_mb}))
"""


def measured(run: Run) -> dict[str, float]:
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, run.path],
        capture_output=True,
        text=True,
        cwd=root,
        env=environment,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_the_report_of_a_million_rows_comes_in_seconds_and_in_little_memory(tmp_path: Path) -> None:
    some, many = (
        measured(
            made_up_run(
                made_up_job(tmp_path / str(rows), rows, 512, accept__rules="[{equals: answer}]", output__metrics="true")
            )
        )
        for rows in (100_000, 1_000_000)
    )
    print(some, many)
    assert (some["code"], many["code"]) == (0, 0)
    assert many["seconds"] < LIMIT_S * crowded()
    assert many["peak_mb"] < LIMIT_MB
    assert many["peak_mb"] - some["peak_mb"] < MORE_MB
    assert (tmp_path / "1000000" / "out" / "_dgbatch" / "report.html").stat().st_size < PAGE_BYTES
