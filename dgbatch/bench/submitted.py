"""One submit with the engine that answers at once, watched from inside: when each stage began, and the driver's memory.

Run as a process of its own: python -m dgbatch.bench.submitted ASKED.json prints one JSON object.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from dgbatch.bench.instant import FIRST, PATH
from dgbatch.runner.progress import Progress

SAMPLE_S = 1.0  # between two looks at the memory
STAGES = ("plan", "ray", "work", "verify")


class FirstRow(Exception):
    """A row was generated, which is all that was asked for."""


class Watch:
    """What `submit` calls with each Progress."""

    def __init__(self, first_row: Path | None):
        self.first_row = first_row  # leave when this file is there
        self.began: dict[str, float] = {}  # stage -> when
        self.memory: list[tuple[float, int, int]] = []  # seconds since the start, rows, bytes of the driver
        self.started = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic() - self.started
        self.began.setdefault(_stage(progress), now)
        if not self.memory or now - self.memory[-1][0] >= SAMPLE_S:
            self.memory.append((round(now, 2), progress.rows, resident_bytes()))
        if self.first_row is not None and self.first_row.exists():
            raise FirstRow


def _stage(progress: Progress) -> str:
    if progress.state == "validating":
        return "check" if progress.expected else "plan"
    if progress.state == "in_progress":
        return "ray" if progress.note == "starting Ray" else "work"
    return "verify"


def resident_bytes() -> int:
    """Memory of this process now; its highest so far where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except FileNotFoundError:
        return peak_bytes()
    return pages * resource.getpagesize()


def peak_bytes() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def run(job: str, marks: str, until_first_row: bool) -> dict[str, Any]:
    """Submit the job; seconds of each stage. With `until_first_row` the run is left as soon as it generates."""
    from dgbatch.runner.submit import submit

    mark = Path(marks, FIRST)
    watch = Watch(mark if until_first_row else None)
    try:
        done = submit(job, on_progress=watch, engine=PATH)
    except FirstRow:
        done = None
    ended = time.monotonic() - watch.started
    began = watch.began
    return {
        "rows": 0 if done is None else done.status.tally.rows,
        "shards": 0 if done is None else done.status.tally.shards,
        "holds": None if done is None or done.verification is None else done.verification.holds,
        "plan_s": began["check"] - began["plan"],
        "ray_s": began["work"] - began["ray"],
        "work_s": began.get("verify", ended) - began["work"],
        "verify_s": None if done is None else ended - began["verify"],
        "first_row_at": float(mark.read_text()),
        "memory": watch.memory,
        "peak_bytes": peak_bytes(),
    }


if __name__ == "__main__":
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps(run(told["job"], told["marks"], told["until_first_row"])))
