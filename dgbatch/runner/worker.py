"""Pieces in, files and receipts out: the bridge between the runner and the engine, inside one process.

A worker has two threads. The engine's thread loads the checkpoint and then pulls prompts from the pieces it was given,
in order, across their borders, so that the device never waits for the slowest row of a piece. The other one answers the
driver: `exchange` takes new pieces in, writes those that are finished, and tells what happened. It knows no Ray:
actors.py wraps it.

Told to leave, by the driver or by a SIGTERM to its process, it begins no more rows, finishes those in the engine for as
long as it may, and hands over what is done of each piece as the piece's first rows.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from dgbatch.errors import RowError
from dgbatch.records import Completion, EngineConfig, EngineStats, Prompt, Rejection
from dgbatch.runner.accept import Rules
from dgbatch.runner.commits import Commit
from dgbatch.runner.due_rows import due_rows
from dgbatch.runner.fault_injection.faults import open_folder
from dgbatch.runner.filming import Filming
from dgbatch.runner.logs.process_log import worker_log
from dgbatch.runner.metering.achieved import Floor
from dgbatch.runner.model import ENGINE, load_engine
from dgbatch.runner.open_piece import OpenPiece, RowKey, poisoned
from dgbatch.runner.piece_files import PieceFiles, about
from dgbatch.runner.prompts import Renderer
from dgbatch.runner.report import Failure, Report
from dgbatch.runner.schema import schemas
from dgbatch.runner.sink import OutputRow, QuarantinedRow
from dgbatch.runner.spread import Spread

if TYPE_CHECKING:
    import pyarrow as pa

    from dgbatch.runner.logs.process_log import LogIds
    from dgbatch.runner.piece import Place, Task
    from dgbatch.runner.spec import JobSpec

LOG = logging.getLogger(__name__)
USUAL = EngineConfig()
NEWS_S = 0.5  # how long an exchange waits for something to say
LOGGED_S = 2.0  # for the last words of an engine to be in the run: the process is killed next
LEAVE_S = 15.0  # for the rows in the engine after a SIGTERM: clouds give half a minute


class Worker:
    """One engine and the pieces it works on. A plain class: actors.py gives it a process of its own.

    heed_sigterm: whether the process is this worker's alone, so that a SIGTERM is meant for it. log: of whose work the
    process keeps a log, where it is this worker's alone. filmed: indexes of the shards that a row of is filmed.
    """

    def __init__(
        self,
        name: str,
        spec: JobSpec,
        schema: pa.Schema,
        run_path: str,
        config: EngineConfig,
        engine: str = ENGINE,
        heed_sigterm: bool = False,
        log: LogIds | None = None,
        filmed: frozenset[int] = frozenset(),
    ):
        self._open: list[OpenPiece] = []
        self._log = worker_log(log, name, lambda: [opened.place[0] for opened in self._open])
        asked = " ".join(f"{key}={value}" for key, value in asdict(config).items() if value != getattr(USUAL, key))
        LOG.info("process %d on %s: %s", os.getpid(), socket.gethostname(), asked or "usual settings")
        self.name = name
        self.spec = spec
        self.config = config
        self._folder = open_folder(run_path)
        columns = schemas(spec, schema)
        self._renderer = Renderer(spec, schema.names)
        self._rules = Rules(spec.accept)
        self._filming = Filming(self._folder, filmed)
        self._files = PieceFiles(name, self._folder, spec.output.format, columns, self._filming)
        wanted = (*self._renderer.columns, *self._rules.columns, *columns.input_columns)
        self._columns = list(dict.fromkeys(wanted))
        self._changed = threading.Condition()  # guards what both threads change: these, up to _leave_at, and the bounds
        self._queue: deque[OpenPiece] = deque()  # pieces the engine has not been given whole
        self._finished: list[OpenPiece] = []
        self._said_hungry = False
        self._leave_at: float | None = None  # no rows are begun any more, and from then on none is waited for
        self._told_to_leave = False
        self._owner: dict[RowKey, OpenPiece] = {}  # who waits for a row that is in the engine
        self._loaded = False
        self._fatal: Failure | None = None
        self._heartbeat = 0
        self._lengths = Spread()  # of the rows that are done
        self._engine: Any = None
        self._floor: Floor | None = None
        if heed_sigterm:
            signal.signal(signal.SIGTERM, self._heed)
        threading.Thread(target=self._work, args=(engine,), name="engine", daemon=True).start()

    def exchange(
        self, tasks: Sequence[Task] = (), cuts: Sequence[Place] = (), closing_s: float | None = None
    ) -> Report:
        """Take these pieces in, wait a moment for news, and tell it. A receipt means: the files are on disk.

        cuts: open pieces to leave half of the rest of to others. closing_s: begin no more rows, and wait no longer than
        this for those in the engine.
        """
        with self._changed:
            for task in tasks:
                opened = OpenPiece(task, self._samples)
                self._queue.append(opened)
                self._open.append(opened)
            self._said_hungry = self._said_hungry and not tasks
            cut = tuple((place, self._cut(place)) for place in cuts)
            if self._told_to_leave or closing_s is not None:
                self._close(LEAVE_S if closing_s is None else closing_s)
            self._changed.notify_all()
            self._changed.wait_for(lambda: cut or self._has_news(), timeout=NEWS_S)
            if self._leave_at is not None and time.monotonic() >= self._leave_at:
                self._give_up()
            finished, self._finished = self._finished, []
        probed = tuple(each.place for each in finished if each.task.probe is not None and each.failure is None)
        outcomes = [each.failure or self._files.write(each) for each in finished if each.place not in probed]
        stats = self._stats()
        with self._changed:
            self._said_hungry = self._wants_rows() > 0
            return Report(
                loaded=self._loaded,
                receipts=tuple(outcome for outcome in outcomes if isinstance(outcome, Commit)),
                failures=tuple(outcome for outcome in outcomes if isinstance(outcome, Failure)),
                probed=probed,
                cuts=cut,
                unstarted=tuple((each.place, each.unstarted) for each in self._open),
                gone=self._leave_at is not None and not self._open and not self._finished,
                fatal=self._fatal,
                wants_rows=self._wants_rows(),
                idle=self._is_idle(),
                open_rows=sum(each.done for each in self._open if each.task.probe is None),
                lengths=self._lengths.counts,
                stats=stats,
                heartbeat=self._heartbeat + stats.passes,
                device=self._engine.device_name if self._loaded else "",
                canvases=self._engine.in_flight if self._loaded else 0,
                curve=tuple(self._engine.curve) if self._loaded else (),
                model_checksum=self._engine.model_checksum if self._loaded else "",
                where=f"{socket.gethostname()}:{os.getpid()}",
            )

    def _heed(self, number: int, frame: FrameType | None) -> None:
        self._told_to_leave = True  # said in the log by `_close`: a handler of a signal must not wait for a lock

    def _cut(self, place: Place) -> int | None:
        return next((each.cut() for each in self._open if each.place == place), None)

    def _close(self, seconds: float) -> None:
        """Begin no more rows. Pieces of which none was begun are anybody's again."""
        leave_at = time.monotonic() + seconds
        if self._leave_at is not None:
            self._leave_at = min(self._leave_at, leave_at)
            return
        self._leave_at = leave_at
        LOG.warning("told to leave: no more rows are begun, those in the engine get %.1f s", seconds)
        for opened in self._open:
            opened.close()
        self._open = [opened for opened in self._open if not opened.empty]

    def _give_up(self) -> None:
        """Hand over the first rows of each open piece, as far as they are done."""
        for opened in self._open:
            opened.give_up()
        self._finished += [opened for opened in self._open if not opened.empty]
        self._open = []

    @property
    def _samples(self) -> int:
        return self.spec.generation.samples

    def _stats(self) -> EngineStats:
        if not self._loaded:
            return EngineStats()
        stats: EngineStats = self._engine.stats
        stats = replace(stats, seconds=dict(stats.seconds))  # a copy: the engine's thread goes on counting
        return stats if self._floor is None else self._floor.add(stats)

    def _has_news(self) -> bool:
        hungry = not self._said_hungry and self._wants_rows() > 0
        idle = self._leave_at is not None and not self._open
        return bool(self._finished) or self._fatal is not None or hungry or idle

    def _wants_rows(self) -> int:
        """Rows for twice the canvases in flight, less those not handed out yet: enough to never wait for the driver."""
        if not self._loaded or self._leave_at is not None:
            return 0
        samples = 2 * self._engine.in_flight - sum(each.unstarted for each in self._queue) * self._samples
        return max(0, -(-samples // self._samples))

    def _is_idle(self) -> bool:
        """Whether it has nothing to begin, and half its canvases stand empty."""
        if not self._loaded or self._leave_at is not None or any(each.unstarted for each in self._queue):
            return False
        return 2 * len(self._owner) <= int(self._engine.in_flight)

    # ---- the engine's thread

    def _work(self, engine: str) -> None:
        try:
            began = time.monotonic()
            LOG.info("loads %s", self.spec.model.checkpoint)
            self._engine = load_engine(engine, self.spec, self.config)
            self._floor = Floor.of(self._engine)
            LOG.info(
                "loaded in %.1f s on %s: %d canvases in flight",
                time.monotonic() - began, self._engine.device_name, self._engine.in_flight,
            )  # fmt: skip
            with self._changed:
                self._loaded = True
                self._changed.notify_all()
            for result in self._engine.generate(self._prompts()):
                self._take_back(result)
        except Exception as error:  # whatever an engine raises, the driver has to hear of it
            LOG.critical("the engine failed", exc_info=True)
            if self._log is not None:
                self._log.flush_soon(LOGGED_S)
            with self._changed:
                self._fatal = Failure.of(error)
                self._changed.notify_all()

    def _prompts(self) -> Iterator[Prompt | None]:
        """The rows of all pieces, in order; None while there are none, and others are still in the engine."""
        while True:
            with self._changed:
                opened = self._queue[0] if self._queue else None
                if opened is None:
                    if self._leave_at is not None:
                        return
                    if not self._owner:
                        self._changed.wait(NEWS_S)
                        continue
            if opened is None:
                yield None
                continue
            try:
                yield from self._prompts_of(opened)
            except Exception as error:  # a file that is gone, a disk that is full: the piece fails, the worker goes on
                LOG.error("%s cannot be read", opened.task.piece, exc_info=True, extra=about(opened))
                opened.failure = Failure.of(error, opened.place)
            opened.read = True
            with self._changed:
                self._queue.popleft()
            if opened.finished:
                self._retire(opened)

    def _prompts_of(self, opened: OpenPiece) -> Iterator[Prompt]:
        task = opened.task
        for number, first, row_id, row, samples in due_rows(opened, self.spec, self._columns, self._folder):
            if number >= opened.next and not self._begin(opened):
                if opened.stop == task.piece.shard.selected:
                    continue  # more rows than were planned: at the end the source will say so
                return
            for sample in samples:
                position = first + sample
                try:
                    if number in task.poison:
                        raise poisoned(task.poison[number])
                    prompt = self._renderer.render(row_id, row, sample)
                except RowError as error:
                    self._heartbeat += 1
                    self._quarantine(opened, position, row_id, sample, error.code, error.message, row)
                else:
                    opened.waiting[row_id, sample] = (position, row)
                    self._owner[row_id, sample] = opened
                    yield self._filming.ask(prompt, opened, number)

    def _begin(self, opened: OpenPiece) -> bool:
        """Take some more rows of a piece, so that nobody cuts them off; False when there are none."""
        some = max(1, self._engine.in_flight // 8)  # a lock a row would cost as much as reading the row
        with self._changed:
            begun, opened.next = opened.next, min(opened.stop, opened.next + some)
            if self._has_news():
                self._changed.notify_all()
        return opened.next > begun

    def _take_back(self, result: Completion | Rejection) -> None:
        key = (result.id, result.sample)
        opened = self._owner.pop(key)
        position, row = opened.waiting.pop(key)
        self._heartbeat += 1
        if isinstance(result, Rejection):
            self._quarantine(opened, position, *key, result.error_code, result.error_message, row)
        else:
            self._lengths.add(result.denoise_steps)
            rules = self._rules.judge(result.text, row) if self.spec.accept else None
            opened.rows.append((position, OutputRow(result, opened.attempts(*key), rules, row)))
        if opened.finished:
            self._retire(opened)

    def _quarantine(
        self, opened: OpenPiece, position: int, row_id: str, sample: int, code: str, message: str, row: dict[str, Any]
    ) -> None:
        self._lengths.add(0)
        lost = QuarantinedRow(row_id, sample, code, message, opened.attempts(row_id, sample), row)
        opened.quarantined.append((position, lost))

    def _retire(self, opened: OpenPiece) -> None:
        with self._changed:
            if opened not in self._open:
                return  # given up before
            self._open.remove(opened)
            self._finished.append(opened)
            self._changed.notify_all()
