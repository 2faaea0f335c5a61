"""Prompts in, completions out: offline inference for DiffusionGemma.

The Python API: `submit`, `plan`, `open_run`. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dgbatch.runner.plan import Plan
    from dgbatch.runner.run_folder import Run
    from dgbatch.runner.submit import Submitted

__version__ = "0.1.0"
__all__ = ["open_run", "plan", "submit"]


def submit(job: str | os.PathLike[str], overrides: Sequence[str] = (), new_run: bool = False) -> Submitted:
    """Run a job file, or what is left of it, and return the verified run. `overrides` are "key.path=value" texts."""
    from dgbatch.runner import submit as steps

    return steps.submit(job, overrides, new_run)


def plan(job: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Plan:
    """Check a job file and its input, and cut the input into shards; starts nothing and writes nothing."""
    from dgbatch.runner.plan import make_plan
    from dgbatch.runner.spec import load_job

    return make_plan(load_job(job, overrides))


def open_run(path: str | os.PathLike[str]) -> Run:
    """A run folder, to look into. Raises RunNotFound."""
    from dgbatch.runner.run_folder import Run

    return Run.open(os.fspath(path))
