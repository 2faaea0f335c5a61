"""The two benches of a GPU run where our command line's packages are not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ABSENT = ("ray", "typer", "click", "rich", "pydantic", "pyarrow", "duckdb", "yaml", "obstore", "plotly", "matplotlib")
RUNS = f"""
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(f"No module named {{name!r}}")

sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("module", "typed"),
    [
        ("dgbatch.bench.kernels", ("--only", "condition", "--canvases", "1")),
        ("dgbatch.bench.random_26b", ("--engine", "dgbatch", "--canvases", "1")),
    ],
)
def test_a_bench_of_a_gpu_runs_without_our_command_line_and_its_packages(module, typed):
    done = subprocess.run(
        [sys.executable, "-c", RUNS, module, "--tiny", "--device", "cpu", *typed],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, "A dry run on a tiny shape" in done.stdout) == (0, True), done.stderr
