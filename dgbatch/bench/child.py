"""One side of a comparison in a process of its own: with its own memory, and an end when it takes too long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import dgbatch
from dgbatch.errors import BenchError


class TooLong(Exception):
    """The time was up before the process was done."""


def run_module(module: str, asked: dict[str, Any], limit_s: float) -> dict[str, Any]:
    """`python -m module ASKED.json`: the JSON object it prints last. Raises TooLong, or BenchError with its words."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "asked.json")
        file.write_text(json.dumps(asked), encoding="utf-8")
        with subprocess.Popen(
            [sys.executable, "-m", module, str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that whatever it starts can be ended with it
            cwd=Path(dgbatch.__file__).parents[1],
        ) as process:
            try:
                said, complained = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                raise TooLong(f"not done in {limit_s:g} s") from None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        last = (complained.strip() or said.strip() or "it said nothing").splitlines()[-1]
        raise BenchError(f"{module} ended with exit code {process.returncode}: {last}")
    told: dict[str, Any] = json.loads(said.splitlines()[-1])
    return told
