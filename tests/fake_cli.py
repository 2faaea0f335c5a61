"""`python -m tests.fake_cli ...` is `dgbatch ...` with the fake engine, for tests that need a process to kill.

FAKE_SILENT_S is how long its driver may be silent before it is ended: Watchdog's own limit is minutes.
"""

from __future__ import annotations

import functools
import os
import sys

from dgbatch.cli import main
from dgbatch.runner import replay, retry, watchdog
from dgbatch.runner import submit as steps
from dgbatch.runner.fault_injection import chaos
from tests.fake_engine import PATH

if __name__ == "__main__":
    steps.submit = functools.partial(steps.submit, engine=PATH)  # type: ignore[assignment]
    retry.retry = functools.partial(retry.retry, engine=PATH)  # type: ignore[assignment]
    replay.replay = functools.partial(replay.replay, engine=PATH)  # type: ignore[assignment]
    ourselves = (sys.executable, "-m", "tests.fake_cli")
    chaos.chaos = functools.partial(chaos.chaos, command=ourselves)  # type: ignore[assignment]
    watchdog.SILENT_S = float(os.environ.get("FAKE_SILENT_S", watchdog.SILENT_S))
    main()
