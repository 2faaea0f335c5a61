"""The logs of a run, read while it works or afterwards: lines of all processes and the events, by time.

Lines of one submit stand together. Of each process one chunk is in memory at a time, and the events.
"""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from dgbatch.errors import OptionError
from dgbatch.runner.layout import EVENTS, LOGS, OURS
from dgbatch.runner.logs.log_lines import DRIVER, LAST_WORDS, LEVELS, Line, parsed

if TYPE_CHECKING:
    from dgbatch.runner.run_folder import Run

EVENT_LEVELS = {
    "worker_lost": "warning", "shard_failed": "warning", "row_poisoned": "warning", "out_of_memory": "warning",
    "attempts_ignored": "warning", "stopping": "warning", "cancelled": "warning", "failed": "error",
}  # fmt: skip
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LOOK_S, STORE_LOOK_S = 0.5, 3.0  # between two looks for news, on a disk and in a store


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines: of these workers (all where none is named), at least of this level, since then, about this shard."""

    workers: frozenset[str] = frozenset()
    level: str = "debug"
    since: str = ""  # as in `at`
    shard: int | None = None

    def __call__(self, line: Line) -> bool:
        return (
            (not self.workers or line.get("worker") in self.workers)
            and LEVELS.index(_level(line)) >= LEVELS.index(self.level)
            and line["at"] >= self.since
            and (self.shard is None or self.shard in line.get("shards", ()))
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """One file of a log, by the parts of its name."""

    name: str
    submit: str
    worker: str
    process: str
    number: int

    @staticmethod
    def of(name: str) -> Chunk | None:
        parts = name.rpartition("/")[2].split(".")
        if len(parts) != 5 or parts[4] != "jsonl" or not parts[3].isdigit():
            return None
        return Chunk(name, parts[0], parts[1], parts[2], int(parts[3]))


class Logs:
    """What a run has said until now."""

    def __init__(self, run: Run):
        self.run = run
        chunks = [Chunk.of(name) for name in run.folder.list(LOGS)]
        self.chunks = sorted((chunk for chunk in chunks if chunk), key=lambda chunk: (chunk.submit, chunk.number))

    @property
    def submits(self) -> list[str]:
        """Oldest first."""
        return sorted({chunk.submit for chunk in self.chunks})

    @property
    def workers(self) -> list[str]:
        """All that have said something, the driver first."""
        names = {chunk.worker for chunk in self.chunks} - {DRIVER}
        return [DRIVER, *sorted(names, key=lambda name: (len(name), name))]

    def lines(self, wanted: Wanted, submit: str | None = None) -> Iterator[Line]:
        """By time; of one submit or of all, one after the other."""
        events = [event_line(event) for event in self.run.events()]
        starts = [opened_at(each) for each in self.submits]
        bounds = ["", *starts[1:]] if starts else [""]
        for index, begins in enumerate(bounds):
            name = self.submits[index] if starts else ""
            if submit is not None and submit != name:
                continue
            ends = bounds[index + 1] if index + 1 < len(bounds) else "~"
            streams: list[Iterable[Line]] = [self._process(each) for each in self._processes(name)]
            streams.append([{**event, "submit": name} for event in events if begins <= event["at"] < ends])
            yield from filter(wanted, heapq.merge(*streams, key=lambda line: str(line["at"])))

    def _processes(self, submit: str) -> list[list[Chunk]]:
        found: dict[str, list[Chunk]] = {}
        for chunk in self.chunks:
            if chunk.submit == submit:
                # Last words carry the time of the death, which may be before that of the last line of the process.
                stream = f"{chunk.worker}.{chunk.process}.{chunk.number == LAST_WORDS}"
                found.setdefault(stream, []).append(chunk)
        return list(found.values())

    def _process(self, chunks: Sequence[Chunk]) -> Iterator[Line]:
        numbered = Numbered()
        for chunk in chunks:
            try:
                data = self.run.folder.get(chunk.name)
            except FileNotFoundError:  # no longer kept
                continue
            lines = [line for text in data.splitlines() if (line := parsed(text)) is not None]
            # Two threads may write in another order than that of their times.
            yield from sorted([each for line in lines for each in numbered(line)], key=lambda line: str(line["at"]))


class Numbered:
    """Says where lines of a process are missing."""

    def __init__(self) -> None:
        self._next = 1

    def __call__(self, line: Line) -> Iterator[Line]:
        n = line.get("n")
        if isinstance(n, int):
            if n > self._next:
                yield {**line, "level": "warning", "message": _dropped(n - self._next), "n": None,
                       "dropped": n - self._next, "logger": "dgbatch"} | {"trace": ""}  # fmt: skip
            self._next = n + 1
        yield line


class Follow:
    """What a run says from a submit on, and goes on to say."""

    def __init__(self, run: Run, submit: str):
        """submit: the first one; empty: all."""
        self.run, self.submit = run, submit
        self._seen: dict[str, str] = {}  # version of each chunk
        self._read: dict[str, int] = {}  # bytes of each chunk
        self._numbered: dict[str, Numbered] = {}
        self._events = 0
        self._events_version: list[str] = []

    def news(self) -> list[Line]:
        """Lines that came since the last call, by time; with the first call all there are."""
        lines: list[Line] = []
        for name, version in self.run.folder.versions(LOGS).items():
            chunk = Chunk.of(name)
            if chunk is None or chunk.submit < self.submit or self._seen.get(name) == version:
                continue
            try:
                data = self.run.folder.get(name)
            except FileNotFoundError:
                continue
            self._seen[name] = version
            begin = self._read.get(name, 0)
            self._read[name] = end = data.rfind(b"\n") + 1
            numbered = self._numbered.setdefault(f"{chunk.submit}.{chunk.worker}.{chunk.process}", Numbered())
            for text in data[begin:end].splitlines():
                if (line := parsed(text)) is not None:
                    lines += numbered(line)
        return sorted([*lines, *self._new_events()], key=lambda line: str(line["at"]))

    def until(self, ended: Callable[[], bool]) -> Iterator[Line]:
        """Lines as they come, until the run has ended and all is told."""
        look_s = STORE_LOOK_S if "://" in self.run.path else LOOK_S
        while True:
            over = ended()
            yield from self.news()
            if over:
                return
            time.sleep(look_s)

    def _new_events(self) -> list[Line]:
        version = [text for name, text in self.run.folder.versions(OURS).items() if name.startswith(EVENTS)]
        if version == self._events_version:
            return []
        events = self.run.events()
        new, self._events, self._events_version = events[self._events :], len(events), version
        begin = opened_at(self.submit)
        return [event_line(event) for event in new if event["at"] >= begin]


def event_line(event: dict[str, Any]) -> Line:
    """An event of events.jsonl as a line of the driver."""
    kind = str(event.get("kind", "event"))
    told = {key: value for key, value in event.items() if key not in ("at", "kind", "reason")}
    said = " ".join(f"{key}={_value(value)}" for key, value in told.items())
    reason = event.get("reason")
    shards = event.get("shards", [event["shard"]] if "shard" in event else [])
    return {
        "at": event["at"],
        "level": EVENT_LEVELS.get(kind, "info"),
        "worker": DRIVER,
        "message": kind.replace("_", " ") + (f" {said}" if said else "") + (f": {reason}" if reason else ""),
        "shards": shards,
        "logger": "events",
    }


def opened_at(submit: str) -> str:
    """20261121T163205-3f9c -> when it began, as in `at`."""
    try:
        return datetime.strptime(submit[:15], "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc).isoformat()
    except ValueError:
        return ""


def since(text: str, now: datetime | None = None) -> str:
    """`10m`, `2h`, `1d`, or a date and time in UTC -> as in `at`. Raises OptionError."""
    try:
        if found := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip()):
            begin = (now or datetime.now(timezone.utc)) - timedelta(seconds=float(found[1]) * UNITS[found[2]])
        else:
            begin = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
            begin = begin.replace(tzinfo=timezone.utc) if begin.tzinfo is None else begin.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise OptionError(
            f"--since {text}: not a time. Give 90s, 10m, 2h, 1d, or a time in UTC such as 2026-11-21T16:30."
        ) from None
    return begin.isoformat(timespec="milliseconds")


def named_workers(given: Sequence[str], known: Sequence[str]) -> frozenset[str]:
    """`w0`, `0` or `driver` -> names. Raises OptionError with the known ones."""
    names = [f"w{text}" if text.isdigit() else text for text in given]
    for text, name in zip(given, names, strict=True):
        if name not in known:
            shown = ", ".join(known[:12]) + (f", ... (of {len(known)})" if len(known) > 12 else "")
            raise OptionError(f"--worker {text}: nobody of this name has logged in this run. There are: {shown}.")
    return frozenset(names)


def _level(line: Line) -> str:
    level = line.get("level")
    return level if level in LEVELS else "info"


def _dropped(lines: int) -> str:
    return f"{lines:,} line{'' if lines == 1 else 's'} dropped here: no room, no store, or more than is kept"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):  # without what is nothing
        return ",".join(f"{key}:{inner}" for key, inner in value.items() if inner) or "-"
    if isinstance(value, list):
        return ",".join(map(str, value[:8])) + (f",... ({len(value)})" if len(value) > 8 else "") or "-"
    return str(value)
