"""The tests for a GPU run where there is none, so that they are not dead code until somebody has one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """As `just test-gpu` does. CUDA_VISIBLE_DEVICES: here is none, wherever this is."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "TRITON_INTERPRET"))}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        "tests/gpu/pytest.ini",
        "tests/gpu",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    return subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        env=inherited | {"CUDA_VISIBLE_DEVICES": ""} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_they_pass_through_the_twins_at_the_tiny_shape() -> None:
    done = run(DGBATCH_GPU_TESTS_ON_CPU="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ passed in", done.stdout, re.MULTILINE), done.stdout  # and none skipped


def test_without_a_gpu_they_are_skipped_and_say_why() -> None:
    done = run("-rs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no CUDA device" in done.stdout
    assert re.search(r"^\d+ skipped in", done.stdout, re.MULTILINE), done.stdout


def test_they_need_none_of_the_packages_that_the_gpu_machine_lacks() -> None:
    """It has torch, triton, safetensors, tokenizers, transformers, pyarrow and pytest."""
    absent = ("hypothesis", "ray", "pydantic", "duckdb", "typer", "rich", "yaml", "pytest_timeout", "pytest_cov")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent})); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "-c", "tests/gpu/pytest.ini", "tests/gpu", "-q", "--collect-only"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
