"""Follows a run from outside until it ends: through what its driver tells, else through its commit records."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dgbatch.runner.progress import AT_WORK, OnProgress, Progress
from dgbatch.runner.status import Status, status_of
from dgbatch.runner.terminal.live_file import LiveReader

if TYPE_CHECKING:
    from dgbatch.runner.run_folder import Run

LOOK_S = 1.0  # between two looks; at a store, which wants money for each
STORE_LOOK_S = 5.0
RESTS = 20  # times as long as reading all records took, before they are read again


def watch(run: Run, show: OnProgress, wait: Callable[[float], None] = time.sleep) -> Status:
    """Show how it goes again and again; the status of the run that has ended, or that nobody works on."""
    look_s = STORE_LOOK_S if "://" in run.path else LOOK_S
    reader = LiveReader(run.folder)
    told: Progress | None = None
    while True:
        rest_s = look_s
        progress = reader.read()
        if progress is None:
            began = time.monotonic()
            status = status_of(run)
            if status.state not in AT_WORK:
                return status
            progress = of_status(status, told)
            rest_s = max(look_s, RESTS * (time.monotonic() - began))
        told = progress
        show(progress)
        wait(rest_s)


def of_status(status: Status, before: Progress | None = None) -> Progress:
    """What the commit records say, which is late by the shards in work."""
    return Progress(
        state=status.state,
        name=status.name,
        path=status.path,
        expected=status.expected,
        rows=max(status.tally.rows, before.rows if before else 0),
        quarantined=status.tally.quarantined,
        ok=status.tally.ok,
        tokens=status.tally.tokens,
        shards=status.shards,
        shards_done=status.tally.shards,
        tokens_per_s=status.tokens_per_s,
        eta_s=status.eta_s,
        steps_per_canvas=status.tally.steps_per_canvas,
        elapsed_s=status.elapsed_s,
        note="what is committed; its driver tells no more yet",
    )
