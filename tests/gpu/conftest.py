"""What kernels are held to on a GPU: `just test-gpu`, or python3 -m pytest -c tests/gpu/pytest.ini tests/gpu.

DGBATCH_GPU_TESTS_ON_CPU=1 runs the same functions on a CPU, at the tiny shape and through the twins: it says nothing
about kernels, and that these tests would run where there is a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu.machine import DEVICE

ROOT = Path(__file__).parents[2]
MANY = 20  # tests, from which on it pays to compile beforehand


@pytest.fixture(scope="session", autouse=True)
def compiled_beforehand(request: pytest.FixtureRequest) -> None:
    """Triton compiles on one core. Sixteen processes fill its cache, which all of them share, in place of minutes.

    What goes wrong in them goes wrong again in a test, and is told there.
    """
    if DEVICE != "cuda" or not torch.cuda.is_available() or len(request.session.items) < MANY:
        return
    parts = min(4, (os.cpu_count() or 1) // 4)
    commands = [
        [sys.executable, "-m", "tests.gpu.once", which, str(part), str(parts)]
        for which in ("real", "crowd", "tiny", "tiny32")
        for part in range(parts)
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for process in [subprocess.Popen(command, cwd=ROOT, **quiet) for command in commands]:
        process.wait()


@pytest.fixture(autouse=True)
def a_device_is_there() -> None:
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device; DGBATCH_GPU_TESTS_ON_CPU=1 runs these tests through the twins")


@pytest.fixture(autouse=True)
def products_of_torch_are_exact() -> None:
    """What our errors are held against does not round between parts of a sum."""
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


@pytest.fixture(autouse=True)
def memory_is_given_back() -> None:
    """The experts and the head of the real model are gigabytes each."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
