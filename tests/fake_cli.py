"""`python -m tests.fake_cli ...` is `dgbatch ...` with the fake engine, for tests that need a process to kill."""

from __future__ import annotations

import functools
import sys

from dgbatch.cli import main
from dgbatch.runner import chaos, retry
from dgbatch.runner import submit as steps
from tests.fake_engine import PATH

if __name__ == "__main__":
    steps.submit = functools.partial(steps.submit, engine=PATH)  # type: ignore[assignment]
    retry.retry = functools.partial(retry.retry, engine=PATH)  # type: ignore[assignment]
    ourselves = (sys.executable, "-m", "tests.fake_cli")
    chaos.chaos = functools.partial(chaos.chaos, command=ourselves)  # type: ignore[assignment]
    main()
