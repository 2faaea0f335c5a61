"""What people see of a job at work: how far, how fast, and a note about what has just happened."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from dgbatch.runner.progress import OnProgress, Progress, Rates

if TYPE_CHECKING:
    from dgbatch.runner.ledger import Tally
    from dgbatch.runner.report import Report

TELL_S = 0.25  # between two updates of the display
NOTE_S = 5.0  # what a note stays on it at least, while the work goes on


class Telling:
    """Makes a Progress of what the workers report, now and then."""

    def __init__(self, name: str, path: str, expected: int, shards: int, on_progress: OnProgress):
        self.name, self.path, self.expected, self.shards, self.on_progress = name, path, expected, shards, on_progress
        self.note = ""
        self._noted_at = self._told_at = 0.0
        self._started_at = time.monotonic()
        self._rates = Rates()
        self._lost_tokens = 0  # of workers that are gone: rates must not fall when one dies

    def say(self, note: str) -> None:
        """What is going on when it is not plain work; the next `tell` shows it at once."""
        self.note, self._noted_at, self._told_at = note, time.monotonic(), 0.0

    def quiet(self, at_once: bool = False) -> None:
        """The work goes on: the last note goes when people have had the time to read it."""
        if at_once or time.monotonic() - self._noted_at > NOTE_S:
            self.note = ""

    def lost(self, report: Report) -> None:
        """The last report of a worker that is gone."""
        self._lost_tokens += report.stats.tokens

    def tell(self, tally: Tally, reports: Collection[Report]) -> None:
        """Show what is committed and what these workers have in work, unless that was done a moment ago."""
        now = time.monotonic()
        if now - self._told_at < TELL_S:
            return
        self._told_at = now
        stats = [report.stats for report in reports]
        rows = tally.rows + sum(report.open_rows for report in reports)
        if any(report.loaded for report in reports):
            self._rates.add(now, rows, self._lost_tokens + sum(each.tokens for each in stats))
        canvases = sum(each.canvases for each in stats) or tally.canvases
        steps = sum(each.denoise_steps for each in stats) or tally.denoise_steps
        self.on_progress(
            Progress(
                state="in_progress",
                name=self.name,
                path=self.path,
                expected=self.expected,
                rows=rows,
                quarantined=tally.quarantined,
                shards=self.shards,
                shards_done=tally.shards,
                tokens_per_s=self._rates.tokens_per_s,
                rows_per_s=self._rates.rows_per_s,
                steps_per_canvas=steps / canvases if canvases else None,
                workers=sum(report.loaded for report in reports),
                elapsed_s=now - self._started_at,
                note=self.note,
            )
        )
