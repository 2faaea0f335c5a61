"""One chaos run with the fake engine, and the run that came of it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from dgbatch.runner.fault_injection.chaos import chaos
from dgbatch.runner.fault_injection.fault_plan import Fault
from dgbatch.runner.fault_injection.outcome import Survived

FAKE = (sys.executable, "-m", "tests.fake_cli")


def drill(job: str, faults: Sequence[Fault]) -> tuple[Survived, Path]:
    """How it ended, and the run, brought to where the job would have put it."""
    survived = chaos(job, faults, keep=True, command=FAKE)
    assert survived.kept is not None
    scratch, run = Path(survived.kept).parent, Path(job).parent / "out"
    if Path(survived.kept).exists():
        shutil.move(survived.kept, run)
    shutil.rmtree(scratch)
    return survived, run
