"""Every kernel under NVIDIA's compute-sanitizer: reads and writes outside of tensors, races in shared memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dgbatch.bench.kernels.cases import TINY, cases
from tests.gpu.machine import CASES, ON_CPU

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]
TOOL = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
ERRORS = 9  # the tool's exit status where it found some


@pytest.mark.parametrize(
    ("check", "which"),
    [("memcheck", "tiny"), ("memcheck", "real"), ("racecheck", "tiny")],
    ids=["memory, odd sizes", "memory, real sizes", "races, odd sizes"],
)
def test_no_kernel_leaves_its_tensors_or_races(check: str, which: str) -> None:
    """Tensors are allocated one by one, so that a row too much is nobody's."""
    tool = [] if ON_CPU else [TOOL, "--tool", check, "--error-exitcode", str(ERRORS)]
    if tool and not TOOL:
        pytest.skip("compute-sanitizer is not on this machine")
    done = subprocess.run(
        [*tool, sys.executable, "-m", "tests.gpu.once", which],
        cwd=ROOT,
        env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    ran = [line.removeprefix("ran ") for line in done.stdout.splitlines() if line.startswith("ran ")]
    told = done.stdout[-4000:] + done.stderr[-4000:]
    if tool and not ran and done.returncode not in (0, ERRORS):
        pytest.skip(f"compute-sanitizer does not work on this machine: {told[-300:]}")
    assert done.returncode == 0, told
    assert ran == [case.name for case in (CASES if which == "real" else cases(TINY))]
