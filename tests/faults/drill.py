"""One chaos run with the fake engine, and the folder it leaves for comparison."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dgbatch.runner.chaos import Survived, chaos
from dgbatch.runner.fault_plan import Fault

FAKE = (sys.executable, "-m", "tests.fake_cli")


def drill(job: str, faults: Sequence[Fault]) -> tuple[Survived, Path]:
    """How it ended, and the run; the caller removes it where it matters."""
    survived = chaos(job, faults, keep=True, command=FAKE)
    assert survived.kept is not None
    return replace(survived, kept=None), Path(survived.kept)
