"""`python -m tests.picture` shows a job at one moment, as `submit` does, until it is interrupted."""

from __future__ import annotations

import signal
import sys

from rich.console import Console

from dgbatch.runner.terminal.display import display_on
from tests.runner.terminal.test_live import WORKING

if __name__ == "__main__":
    with display_on(Console(stderr=True, highlight=False)) as display:
        display._now = lambda: 0.0  # type: ignore[attr-defined]  # time stands still
        display(WORKING)
        try:
            signal.pause()
        except KeyboardInterrupt:
            sys.exit(130)
