"""Which faults a chaos run is to have, and when: `worker@5s,driver@40%,worker@written`. Pure: it kills nobody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dgbatch.errors import JobError
from dgbatch.runner.fault_injection.faults import MOMENTS

Kind = Literal["kill", "hang", "disk-full", "store-errors"]
KILLABLE = ("worker", "driver", "node")
FIRST_COMMITS = "1%"  # when a disk fills up: there is something to lose

_WHEN = re.compile(rf"(?P<after_s>\d+(?:\.\d+)?)s|(?P<percent>\d+(?:\.\d+)?)%|(?P<moment>{'|'.join(MOMENTS)})")


@dataclass(frozen=True, slots=True)
class When:
    """One of three: seconds since the first worker was ready, a share of all rows done, a moment of a shard."""

    after_s: float | None = None
    percent: float | None = None
    moment: str | None = None

    def is_due(self, elapsed_s: float, rows_ratio: float) -> bool:
        """False for a moment: the process that comes to it knows."""
        if self.after_s is not None:
            return elapsed_s >= self.after_s
        return self.percent is not None and 100 * rows_ratio >= self.percent

    def __str__(self) -> str:
        if self.after_s is not None:
            return f"{self.after_s:g}s"
        return self.moment if self.percent is None and self.moment else f"{self.percent:g}%"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is to go wrong."""

    kind: Kind
    when: When
    victim: str = ""  # of a kill and a hang
    ratio: float = 0.0  # of store errors: the share of operations that fail

    def __str__(self) -> str:
        if self.kind in ("kill", "hang"):
            return f"{self.kind} {self.victim}@{self.when}"
        return f"{self.kind} {self.ratio:g}" if self.ratio else self.kind


def fault_plan(kill: str = "", hang: str = "", disk_full: bool = False, store_errors: float = 0.0) -> list[Fault]:
    """The faults that the options of `dgbatch chaos` ask for. Raises JobError for what cannot be asked."""
    faults = [Fault("kill", when, victim) for victim, when in _parsed("--kill", kill, KILLABLE)]
    for victim, when in _parsed("--hang", hang, ("worker",)):
        if when.moment:
            raise JobError(f"--hang {hang}: a worker hangs after seconds or at a share of the rows, as in worker@30s")
        faults.append(Fault("hang", when, victim))
    if disk_full:
        faults.append(Fault("disk-full", _when(FIRST_COMMITS)))
    if not 0 <= store_errors <= 1:
        raise JobError(f"--store-errors {store_errors:g}: it is the share of operations that fail, from 0 to 1")
    if store_errors:
        faults.append(Fault("store-errors", When(after_s=0.0), ratio=store_errors))
    if not faults:
        raise JobError("nothing to do: name a fault, as in --kill worker@5s,driver@50% (see dgbatch chaos --help)")
    return faults


def _parsed(option: str, text: str, victims: tuple[str, ...]) -> Iterator[tuple[str, When]]:
    seen: set[str] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        victim, at, when = part.partition("@")
        if victim not in victims:
            raise JobError(
                f"{option} {part}: {victim!r} cannot be chosen. Say {' or '.join(victims)}, as in {victims[0]}@5s"
            )
        if not at or not _WHEN.fullmatch(when):
            raise JobError(
                f"{option} {part}: says no moment. Say {victim}@5s (after the first worker was ready), {victim}@40% "
                f"(of the rows), or {victim}@ and a moment of a shard: {', '.join(MOMENTS)}"
            )
        if victim == "node" and when in MOMENTS:
            raise JobError(f"{option} {part}: a node is lost after seconds or at a share of the rows, as in node@20s")
        if when in MOMENTS and part in seen:
            raise JobError(f"{option} {part}: asked for twice. Give the second one a time or a share of the rows.")
        seen.add(part)
        yield victim, _when(when)


def _when(text: str) -> When:
    found = _WHEN.fullmatch(text)
    assert found is not None
    after_s, percent = (None if found[unit] is None else float(found[unit]) for unit in ("after_s", "percent"))
    return When(after_s, percent, found["moment"])
