"""Shards in, files and receipts out: the bridge between the runner and the engine, inside one process.

A worker has two threads. The engine's thread loads the checkpoint and then pulls prompts from the shards it was given,
in order, across shard borders, so that the device never waits for the slowest row of a shard. The other one answers the
driver: `exchange` takes new shards in, writes the shards that are finished, and tells what happened. It knows no Ray:
actors.py wraps it.
"""

from __future__ import annotations

import importlib
import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dgbatch.errors import OutputError, RowError
from dgbatch.records import Completion, EngineConfig, EngineStats, Prompt, Rejection
from dgbatch.runner import source
from dgbatch.runner.accept import Rules
from dgbatch.runner.again import Leftover
from dgbatch.runner.commits import Commit
from dgbatch.runner.faults import open_folder
from dgbatch.runner.model import ENGINE, missing
from dgbatch.runner.open_shard import OpenShard
from dgbatch.runner.prompts import Renderer
from dgbatch.runner.report import Failure, Report
from dgbatch.runner.schema import schemas
from dgbatch.runner.sink import OutputRow, QuarantinedRow, counts, write_shard

if TYPE_CHECKING:
    import pyarrow as pa

    from dgbatch.runner.dispatch import Task
    from dgbatch.runner.spec import JobSpec

NEWS_S = 0.5  # how long an exchange waits for something to say


class Worker:
    """One engine and the shards it works on. A plain class: actors.py gives it a process of its own."""

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
        self._changed = threading.Condition()  # guards what both threads change: these, up to _closing
        self._queue: deque[OpenShard] = deque()  # shards the engine has not been given whole
        self._open: list[OpenShard] = []
        self._finished: list[OpenShard] = []
        self._said_hungry = False
        self._closing = False
        self._owner: dict[tuple[str, int], OpenShard] = {}  # who waits for a row that is in the engine
        self._loaded = False
        self._fatal: Failure | None = None
        self._heartbeat = 0
        self._engine: Any = None
        threading.Thread(target=self._work, args=(engine,), name="engine", daemon=True).start()

    def exchange(self, tasks: Sequence[Task] = (), closing: bool = False) -> Report:
        """Take these shards in, wait a moment for news, and tell it. A receipt means: the files are on disk."""
        with self._changed:
            for task in tasks:
                rows = task.shard.selected if task.probe is None else len(task.probe)
                samples = rows * self._samples if task.again is None else task.again.samples
                opened = OpenShard(task, left=samples)
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
            opened.read = True
            with self._changed:
                self._queue.popleft()
            if opened.finished:
                self._retire(opened)

    def _prompts_of(self, opened: OpenShard) -> Iterator[Prompt]:
        task = opened.task
        look_every = max(1, self._engine.in_flight // 8)  # a lock a row would cost as much as reading the row
        prompt: Prompt | None
        for number, first, row_id, row, samples in self._rows(opened):
            if task.probe is not None and number not in task.probe:
                continue
            for sample in samples:
                position = first + sample
                try:
                    if number in task.poison:
                        raise RowError("worker_killed", f"run alone, it cost its worker: {task.poison[number]}")
                    prompt = self._renderer.render(row_id, row, sample)
                except RowError as error:
                    self._heartbeat += 1
                    self._quarantine(opened, position, row_id, sample, error.code, error.message, row)
                    prompt = None
                else:
                    opened.waiting[row_id, sample] = (position, row)
                    self._owner[row_id, sample] = opened
                opened.left -= 1
                if opened.left % look_every == 0:
                    self._tell_hunger()
                if prompt is not None:
                    yield prompt

    def _rows(self, opened: OpenShard) -> Iterator[tuple[int, int, str, dict[str, Any], Iterable[int]]]:
        """The rows that a task is about: number among them, position of the first sample, id, row, samples to run."""
        task, samples = opened.task, range(self._samples)
        rows = enumerate(source.rows(task.shard, self.spec.input, self._columns))
        if task.again is None:
            yield from ((number, number * len(samples), row_id, row, samples) for number, (row_id, row) in rows)
            return
        leftover = Leftover.read(self._folder, self.spec.output.format, task.again)
        number = 0
        for place, (row_id, row) in rows:
            position = place * len(samples)
            opened.quarantined += ((position + kept.sample, kept) for kept in leftover.kept(row_id, row))
            if tried := leftover.due(row_id):
                opened.tried.update(((row_id, sample), attempts) for sample, attempts in tried.items())
                yield number, position, row_id, row, sorted(tried)
                number += 1
        if strangers := leftover.strangers:
            raise OutputError(f"quarantine has {strangers[0]!r}, which shard {opened.index} of the input does not have")

    def _tell_hunger(self) -> None:
        with self._changed:
            if self._has_news():
                self._changed.notify_all()

    def _take_back(self, result: Completion | Rejection) -> None:
        key = (result.id, result.sample)
        opened = self._owner.pop(key)
        position, row = opened.waiting.pop(key)
        self._heartbeat += 1
        if isinstance(result, Rejection):
            self._quarantine(opened, position, *key, result.error_code, result.error_message, row)
        else:
            rules = self._rules.judge(result.text, row) if self.spec.accept else None
            opened.rows.append((position, OutputRow(result, opened.attempts(*key), rules, row)))
        if opened.finished:
            self._retire(opened)

    def _quarantine(
        self, opened: OpenShard, position: int, row_id: str, sample: int, code: str, message: str, row: dict[str, Any]
    ) -> None:
        lost = QuarantinedRow(row_id, sample, code, message, opened.attempts(row_id, sample), row)
        opened.quarantined.append((position, lost))

    def _retire(self, opened: OpenShard) -> None:
        with self._changed:
            self._open.remove(opened)
            self._finished.append(opened)
            self._changed.notify_all()

    # ---- the driver's thread

    def _write(self, opened: OpenShard) -> Commit | Failure:
        """Both files of a finished shard, in the order of its input, under a name of this attempt."""
        rows = [row for _, row in sorted(opened.rows, key=lambda pair: pair[0])]
        quarantined = [row for _, row in sorted(opened.quarantined, key=lambda pair: pair[0])]
        attempt = uuid.uuid4().hex[:8]
        index, again = opened.index, opened.task.again
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
            round=0 if again is None else again.round,
            base=() if again is None else again.base,
        )


def load_engine(engine: str, spec: JobSpec, config: EngineConfig) -> Any:
    """`module:Class` -> a ready engine with the job's checkpoint; raises CheckpointError for what the user can mend."""
    module, _, name = engine.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise missing(error.name or str(error)) from error
    return factory.load(spec.model.checkpoint, config, revision=spec.model.revision)
