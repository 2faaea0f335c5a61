"""Shards in, files and receipts out: the bridge between the runner and the engine, inside one process.

A worker has two threads. The engine's thread loads the checkpoint and then pulls prompts from the shards it was given,
in order, across shard borders, so that the device never waits for the slowest row of a shard. The other one answers the
driver: `exchange` takes new shards in, writes the shards that are finished, and tells what happened. It knows no Ray:
driver.py wraps it.
"""

from __future__ import annotations

import importlib
import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dgbatch.errors import RowError
from dgbatch.records import Completion, CurvePoint, EngineConfig, EngineStats, Prompt, Rejection
from dgbatch.runner import source
from dgbatch.runner.accept import Rules
from dgbatch.runner.commits import Commit
from dgbatch.runner.folder import open_folder
from dgbatch.runner.model import ENGINE, missing
from dgbatch.runner.prompts import Renderer
from dgbatch.runner.schema import schemas
from dgbatch.runner.sink import OutputRow, QuarantinedRow, counts, write_shard

if TYPE_CHECKING:
    import pyarrow as pa

    from dgbatch.runner.dispatch import Task
    from dgbatch.runner.spec import JobSpec

NEWS_S = 0.5  # how long an exchange waits for something to say


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong: the class of the exception by name, because not every process can load it, and its text."""

    kind: str
    message: str
    shard: int | None = None  # None: it was the whole worker

    @staticmethod
    def of(error: BaseException, shard: int | None = None) -> Failure:
        return Failure(type(error).__name__, str(error) or repr(error), shard)

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker tells the driver. Counters run since the worker's start and include work that is not committed."""

    loaded: bool = False
    receipts: tuple[Commit, ...] = ()
    failures: tuple[Failure, ...] = ()
    probed: tuple[int, ...] = ()  # shards whose probe came through
    fatal: Failure | None = None  # the engine is gone, and the worker of no more use
    wants_rows: int = 0  # rows that would keep the engine busy beyond its shards
    open_rows: int = 0  # rows done in shards that are not
    stats: EngineStats = field(default_factory=EngineStats)
    heartbeat: int = 0  # any number that moves while the worker does
    device: str = ""
    canvases: int = 0  # in flight
    curve: tuple[CurvePoint, ...] = ()  # where the engine chose how many: what it measured
    model_checksum: str = ""
    where: str = ""  # host and process id


@dataclass(slots=True, eq=False)
class OpenShard:
    """A shard in work: which rows are in the engine, and which came back."""

    task: Task
    left: int  # samples not handed to the engine yet
    started_at: float = field(default_factory=time.monotonic)
    read: bool = False  # all its rows are with the engine, or back
    failure: Failure | None = None
    waiting: dict[tuple[str, int], tuple[int, dict[str, Any]]] = field(default_factory=dict)
    rows: list[tuple[int, OutputRow]] = field(default_factory=list)
    quarantined: list[tuple[int, QuarantinedRow]] = field(default_factory=list)

    @property
    def index(self) -> int:
        return self.task.shard.index

    @property
    def finished(self) -> bool:
        return (self.read or self.failure is not None) and not self.waiting


class Worker:
    """One engine and the shards it works on. A plain class: driver.py gives it a process of its own."""

    def __init__(
        self, name: str, spec: JobSpec, schema: pa.Schema, run_path: str, config: EngineConfig, engine: str = ENGINE
    ):
        self.name = name
        self.spec = spec
        self.config = config
        self._folder = open_folder(run_path)
        self._schemas = schemas(spec, schema)
        self._renderer = Renderer(spec, schema.names)
        self._rules = Rules(spec.accept)
        wanted = (*self._renderer.columns, *self._rules.columns, *self._schemas.input_columns)
        self._columns = list(dict.fromkeys(wanted))
        self._changed = threading.Condition()  # guards all that follows
        self._queue: deque[OpenShard] = deque()  # shards the engine has not been given whole
        self._open: list[OpenShard] = []
        self._finished: list[OpenShard] = []
        self._owner: dict[tuple[str, int], OpenShard] = {}  # who waits for a row that is in the engine
        self._closing = False
        self._loaded = False
        self._said_hungry = False
        self._fatal: Failure | None = None
        self._heartbeat = 0
        self._engine: Any = None
        threading.Thread(target=self._work, args=(engine,), name="engine", daemon=True).start()

    def exchange(self, tasks: Sequence[Task] = (), closing: bool = False) -> Report:
        """Take these shards in, wait a moment for news, and tell it. A receipt means: the files are on disk."""
        with self._changed:
            for task in tasks:
                rows = task.shard.selected if task.probe is None else len(task.probe)
                opened = OpenShard(task, left=rows * self._samples)
                self._queue.append(opened)
                self._open.append(opened)
            self._said_hungry = self._said_hungry and not tasks
            self._closing = closing
            self._changed.notify_all()
            self._changed.wait_for(self._has_news, timeout=NEWS_S)
            finished, self._finished = self._finished, []
        probed = tuple(shard.index for shard in finished if shard.task.probe is not None and shard.failure is None)
        outcomes = [shard.failure or self._write(shard) for shard in finished if shard.index not in probed]
        with self._changed:
            self._said_hungry = self._wants_rows() > 0
            return Report(
                loaded=self._loaded,
                receipts=tuple(outcome for outcome in outcomes if isinstance(outcome, Commit)),
                failures=tuple(outcome for outcome in outcomes if isinstance(outcome, Failure)),
                probed=probed,
                fatal=self._fatal,
                wants_rows=self._wants_rows(),
                open_rows=sum(
                    len(shard.rows) + len(shard.quarantined) for shard in self._open if shard.task.probe is None
                ),
                stats=self._stats(),
                heartbeat=self._heartbeat + self._stats().passes,
                device=self._engine.device_name if self._loaded else "",
                canvases=self._engine.in_flight if self._loaded else 0,
                curve=tuple(self._engine.curve) if self._loaded else (),
                model_checksum=self._engine.model_checksum if self._loaded else "",
                where=f"{socket.gethostname()}:{os.getpid()}",
            )

    @property
    def _samples(self) -> int:
        return self.spec.generation.samples

    def _stats(self) -> EngineStats:
        if not self._loaded:
            return EngineStats()
        stats: EngineStats = self._engine.stats
        return replace(stats, seconds=dict(stats.seconds))  # a copy: the engine's thread goes on counting

    def _has_news(self) -> bool:
        hungry = not self._said_hungry and self._wants_rows() > 0
        idle = self._closing and not self._open
        return bool(self._finished) or self._fatal is not None or hungry or idle

    def _wants_rows(self) -> int:
        """Rows for twice the canvases in flight, less those not handed out yet: enough to never wait for the driver."""
        if not self._loaded or self._closing:
            return 0
        samples = 2 * self._engine.in_flight - sum(shard.left for shard in self._queue)
        return max(0, -(-samples // self._samples))

    # ---- the engine's thread

    def _work(self, engine: str) -> None:
        try:
            self._engine = load_engine(engine, self.spec, self.config)
            with self._changed:
                self._loaded = True
                self._changed.notify_all()
            for result in self._engine.generate(self._prompts()):
                self._take_back(result)
        except Exception as error:  # noqa: BLE001  # whatever an engine raises, the driver has to hear of it
            with self._changed:
                self._fatal = Failure.of(error)
                self._changed.notify_all()

    def _prompts(self) -> Iterator[Prompt | None]:
        """The rows of all shards, in order; None while there are none, and others are still in the engine."""
        while True:
            with self._changed:
                opened = self._queue[0] if self._queue else None
                if opened is None:
                    if self._closing:
                        return
                    if not self._owner:
                        self._changed.wait(NEWS_S)
                        continue
            if opened is None:
                yield None
                continue
            try:
                yield from self._prompts_of(opened)
            except Exception as error:  # noqa: BLE001  # a file that is gone, a disk that is full: the shard fails, the worker goes on
                opened.failure = Failure.of(error, opened.index)
            with self._changed:
                opened.read = True
                self._queue.popleft()
                self._retire(opened)

    def _prompts_of(self, opened: OpenShard) -> Iterator[Prompt]:
        task, samples = opened.task, self._samples
        for number, (row_id, row) in enumerate(source.rows(task.shard, self.spec.input, self._columns)):
            if task.probe is not None and number not in task.probe:
                continue
            for sample in range(samples):
                position = number * samples + sample
                try:
                    if number in task.poison:
                        raise RowError("worker_killed", f"run alone, it cost its worker: {task.poison[number]}")
                    prompt = self._renderer.render(row_id, row, sample)
                except RowError as error:
                    with self._changed:
                        opened.left -= 1
                        self._heartbeat += 1
                        self._quarantine(opened, position, row_id, sample, error.code, error.message, row)
                else:
                    with self._changed:
                        opened.left -= 1
                        opened.waiting[row_id, sample] = (position, row)
                        self._owner[row_id, sample] = opened
                        if self._has_news():
                            self._changed.notify_all()
                    yield prompt

    def _take_back(self, result: Completion | Rejection) -> None:
        key = (result.id, result.sample)
        with self._changed:
            opened = self._owner.pop(key)
            position, row = opened.waiting.pop(key)
            self._heartbeat += 1
            if isinstance(result, Rejection):
                self._quarantine(opened, position, *key, result.error_code, result.error_message, row)
            else:
                rules = self._rules.judge(result.text, row) if self.spec.accept else None
                opened.rows.append((position, OutputRow(result, opened.task.attempt, rules, row)))
            self._retire(opened)

    def _quarantine(
        self, opened: OpenShard, position: int, row_id: str, sample: int, code: str, message: str, row: dict[str, Any]
    ) -> None:
        lost = QuarantinedRow(row_id, sample, code, message, opened.task.attempt, row)
        opened.quarantined.append((position, lost))

    def _retire(self, opened: OpenShard) -> None:
        if opened.finished and opened in self._open:
            self._open.remove(opened)
            self._finished.append(opened)
            self._changed.notify_all()

    # ---- the driver's thread

    def _write(self, opened: OpenShard) -> Commit | Failure:
        """Both files of a finished shard, in the order of its input, under a name of this attempt."""
        rows = [row for _, row in sorted(opened.rows, key=lambda pair: pair[0])]
        quarantined = [row for _, row in sorted(opened.quarantined, key=lambda pair: pair[0])]
        attempt = uuid.uuid4().hex[:8]
        index = opened.index
        try:
            data, given_up = write_shard(
                self._folder, index, attempt, self.spec.output.format, self._schemas, rows, quarantined
            )
        except Exception as error:  # noqa: BLE001  # disk full, store away: the shard is tried again
            return Failure.of(error, index)
        return Commit(
            shard=index,
            attempt=attempt,
            data=data,
            quarantine=given_up,
            **counts(rows, quarantined),
            seconds=round(time.monotonic() - opened.started_at, 3),
            worker=self.name,
            committed_at="",  # the driver's clock says when
        )


def load_engine(engine: str, spec: JobSpec, config: EngineConfig) -> Any:
    """`module:Class` -> a ready engine with the job's checkpoint; raises CheckpointError for what the user can mend."""
    module, _, name = engine.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise missing(error.name or str(error)) from error
    return factory.load(spec.model.checkpoint, config, revision=spec.model.revision)
