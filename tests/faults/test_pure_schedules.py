"""100 random schedules of faults against the parts that decide: dispatch, poison, commits, ledger; without a process.

Workers die, leave, run out of memory and take over halves, pieces fail, drivers die and are followed by others, a rival
driver commits some of the same rows first. After each step every row is in one place; in the end every row is committed
once, and only rows that kill are given up. `DGBATCH_SEED=7 just test-faults -k pure` gives a day's schedules again.
"""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dgbatch.runner import attempts
from dgbatch.runner.commits import Commit, FileRecord, part_name
from dgbatch.runner.dispatch import Dispatch
from dgbatch.runner.ledger import Ledger
from dgbatch.runner.piece import Piece, Place, Task
from dgbatch.runner.plan import Shard
from dgbatch.runner.poison import Blame

pytestmark = pytest.mark.faults

SCHEDULES = 100
STEPS = 60
WORKERS = ("w0", "w1", "w2")
MOST_SUBMITS = 50
MOST_STEPS = 5000
LEAST_CUT = 2
DIED = Blame("worker_killed", "the process died")
SIZES = st.lists(st.integers(1, 8), min_size=1, max_size=4)
Row = tuple[int, int]  # shard, position in it


class Schedule(RuleBasedStateMachine):
    """A run whose driver, workers and disk are a few dictionaries."""

    @initialize(sizes=SIZES, shard_attempts=st.sampled_from([1, 1, 2, 3]), dice=st.randoms(use_true_random=False))
    def new_run(self, sizes: list[int], shard_attempts: int, dice: random.Random) -> None:
        self.shards = [Shard(n, "prompts.parquet", n, 0, rows, rows) for n, rows in enumerate(sizes)]
        self.rows = {(shard.index, row) for shard in self.shards for row in range(shard.rows)}
        self.poison = {row for row in sorted(self.rows) if dice.random() < 0.15}
        self.accidents: dict[Row, int] = {}  # deaths of a worker that had just this row, and not by its fault
        self.shard_attempts = shard_attempts
        self.records: dict[str, Commit] = {}  # the disk: a name is taken once and for ever
        self.noted = b""  # attempts.json
        self.attempt = 0
        self.given_up: dict[str, set[Row]] = {}  # by attempt: the rows in its quarantine file
        self.new_driver()

    # ---- a driver, as driver.py and losses.py are one

    def new_driver(self) -> None:
        """What a submit begins with: what the disk says."""
        self.ledger = self.on_disk()
        due = [Piece(shard, rows.start, rows.stop) for shard, rows in self.ledger.outstanding()]
        known = attempts.from_json(self.noted, "run", self.shards) if self.noted else {}
        tries = {key: each for key, each in known.items() if not self.ledger.is_done(key[0])}
        self.dispatch = Dispatch(due, self.shard_attempts, tries)
        self.tasks: dict[str, dict[Place, Task]] = {worker: {} for worker in WORKERS}  # as the workers know them
        self.cuts: list[tuple[str, Place]] = []  # asked for, not answered

    def on_disk(self) -> Ledger:
        return Ledger.of(self.shards, self.records.values())

    def note(self) -> None:
        self.noted = attempts.to_json(self.dispatch.tries, "run")

    def ask_for(self, worker: str, rows: int) -> None:
        self.tasks[worker] |= {task.piece.place: task for task in self.dispatch.next_for(worker, rows)}

    def lose(self, worker: str) -> None:
        self.forget(worker)
        self.dispatch.lost(worker, DIED)
        self.note()

    def forget(self, worker: str) -> None:
        self.tasks[worker] = {}
        self.cuts = [(owner, place) for owner, place in self.cuts if owner != worker]

    def commit(self, piece: Piece, poison: set[int], stop: int | None = None) -> None:
        """What Run.commit does: nothing that would not count, then put if absent."""
        if stop is not None and stop < piece.stop:
            piece, _ = piece.cut(stop)
        self.attempt += 1
        attempt, index = f"{self.attempt:08x}", piece.shard.index
        lost = {(index, row) for row in poison if piece.first <= row < piece.stop}
        self.given_up[attempt] = lost
        data, quarantine = (
            FileRecord(part_name(kind, index, attempt, "parquet"), rows, 1, "0" * 64) if rows else None
            for kind, rows in (("data", piece.rows - len(lost)), ("quarantine", len(lost)))
        )
        commit = Commit(
            index,
            attempt,
            data,
            quarantine,
            piece.rows - len(lost),
            len(lost),
            0,
            1,
            1,
            1,
            1,
            0.5,
            "w0",
            "",
            piece.span,
        )
        if self.ledger.accepts(commit):
            self.ledger.add(self.records.setdefault(commit.name, commit))

    def work(self, worker: str) -> None:
        """The worker does its oldest task, and tells; or dies of it."""
        place, task = next(iter(self.tasks[worker].items()))
        piece = self.dispatch.running[worker][place]  # as it was cut since
        rows = task.probe or range(piece.first, piece.stop)
        if {(piece.shard.index, row) for row in rows if row not in task.poison} & self.poison:
            self.lose(worker)
            return
        del self.tasks[worker][place]
        self.cuts = [cut for cut in self.cuts if cut != (worker, place)]
        if task.probe is not None:
            self.dispatch.probed(worker, place)
            self.note()
        else:
            self.commit(piece, set(task.poison))
            self.dispatch.finished(worker, place)

    def alone(self) -> list[str]:
        """Workers that try a single row."""
        tasks = [(worker, task) for worker in WORKERS for task in self.tasks[worker].values()]
        return [worker for worker, task in tasks if task.probe and len(task.probe) == 1]

    def plain(self) -> list[tuple[str, Place]]:
        """Pieces at work that are no probes."""
        return [(worker, place) for worker in WORKERS for place, task in self.tasks[worker].items() if not task.probe]

    # ---- what may happen

    @rule(worker=st.sampled_from(WORKERS), rows=st.sampled_from([1, 4, 40]))
    def ask(self, worker: str, rows: int) -> None:
        self.ask_for(worker, rows)

    @precondition(lambda self: any(self.tasks.values()))
    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        self.work(data.draw(st.sampled_from([worker for worker in WORKERS if self.tasks[worker]])))

    @rule(worker=st.sampled_from(WORKERS))
    def worker_dies(self, worker: str) -> None:
        for task in self.tasks[worker].values():
            if task.probe is not None and len(task.probe) == 1:
                row = (task.piece.shard.index, task.probe[0])
                self.accidents[row] = self.accidents.get(row, 0) + 1
        self.lose(worker)

    @rule(worker=st.sampled_from(WORKERS))
    def worker_dies_of_the_next_piece(self, worker: str) -> None:
        """So that it is known which one: what is tried again after that is tried alone, and halved."""
        if not self.tasks[worker]:
            self.ask_for(worker, 1)
        self.worker_dies(worker)

    @precondition(lambda self: self.alone())
    @rule(data=st.data())
    def worker_dies_with_one_row_in_its_hands(self, data: st.DataObject) -> None:
        """Rare, and the moment at which an innocent row could be condemned."""
        self.worker_dies(data.draw(st.sampled_from(self.alone())))

    @rule(worker=st.sampled_from(WORKERS))
    def device_is_short_of_memory(self, worker: str) -> None:
        self.forget(worker)
        self.dispatch.short(worker)
        self.note()

    @precondition(lambda self: self.plain())
    @rule(data=st.data())
    def worker_is_told_to_leave(self, data: st.DataObject) -> None:
        """It commits what it has done of a piece, and gives back the rest."""
        worker, place = data.draw(st.sampled_from(self.plain()))
        piece, task = self.dispatch.running[worker][place], self.tasks[worker][place]
        stop = data.draw(st.integers(piece.first, piece.stop))
        done = {(piece.shard.index, row) for row in range(piece.first, stop) if row not in task.poison}
        if stop > piece.first and not done & self.poison:
            self.commit(piece, set(task.poison), stop)
            self.dispatch.finished(worker, place, stop)
        self.forget(worker)
        self.dispatch.left(worker)

    @precondition(lambda self: self.plain())
    @rule(data=st.data())
    def piece_fails(self, data: st.DataObject) -> None:
        """Disk full, or the store away, when its file was to be written."""
        worker, place = data.draw(st.sampled_from(self.plain()))
        del self.tasks[worker][place]
        self.cuts = [cut for cut in self.cuts if cut != (worker, place)]
        self.dispatch.failed(worker, place)
        self.note()

    @rule(worker=st.sampled_from(WORKERS))
    def idle_worker_asks_for_half(self, worker: str) -> None:
        if not self.tasks[worker] and (found := self.dispatch.to_cut(worker, LEAST_CUT)) is not None:
            self.cuts.append(found)

    @precondition(lambda self: self.cuts)
    @rule(data=st.data())
    def owner_cuts(self, data: st.DataObject) -> None:
        """Where it can: it may have begun too many rows meanwhile."""
        worker, place = data.draw(st.sampled_from(self.cuts))
        self.cuts.remove((worker, place))
        piece = self.dispatch.running[worker][place]
        inside = st.integers(piece.first + 1, piece.stop - 1) if piece.rows > 1 else st.none()
        self.dispatch.cut(worker, place, data.draw(inside | st.none()))

    @rule()
    def driver_dies(self) -> None:
        self.new_driver()

    @rule(data=st.data())
    def rival_commits(self, data: st.DataObject) -> None:
        """A driver that had lost its lock, and did not know it yet, commits rows of its own, whole shards or pieces."""
        shard = data.draw(st.sampled_from(self.shards))
        first = data.draw(st.integers(0, shard.rows - 1))
        piece = Piece(shard, first, data.draw(st.integers(first + 1, shard.rows)))
        ours, self.ledger = self.ledger, self.on_disk()
        self.commit(piece, {row for index, row in self.poison if index == shard.index})
        self.ledger = ours

    # ---- what must hold

    @invariant()
    def every_row_is_in_one_place(self) -> None:
        """It waits, is worked on, is promised, is given up, or is committed as far as the driver knows."""
        pieces = [*self.dispatch.pending, *self.dispatch.given_up.values()]
        pieces += [piece for held in self.dispatch.running.values() for piece in held.values()]
        pieces += [piece for piece in self.dispatch._promised.values() if piece is not None]
        places = [(piece.shard.index, row) for piece in pieces for row in range(piece.first, piece.stop)]
        assert len(places) == len(set(places))
        left = {(shard.index, row) for shard, rows in self.ledger.outstanding() for row in rows}
        assert left <= set(places) | self.taken_by_rivals()

    def taken_by_rivals(self) -> set[Row]:
        """Rows that are committed, though this driver has not heard of it, or is not told by its ledger."""
        disk = {(shard.index, row) for shard, rows in self.on_disk().outstanding() for row in rows}
        return self.rows - disk

    @invariant()
    def no_row_is_committed_twice(self) -> None:
        disk = self.on_disk()
        for shard in self.shards:
            spans = [commit.span or (0, shard.selected) for commit in disk.of_shard(shard.index)]
            covered = [row for span in spans for row in range(*span)]
            assert len(covered) == len(set(covered))

    def teardown(self) -> None:
        """From here on nothing goes wrong any more but the rows that kill: it must come to an end."""
        if not hasattr(self, "shards"):
            return
        for _ in range(MOST_SUBMITS):
            self.new_driver()
            for _ in range(MOST_STEPS):
                if self.dispatch.done:
                    break
                for worker in WORKERS:
                    self.ask_for(worker, 4)
                    if self.tasks[worker]:
                        self.work(worker)
            assert self.dispatch.done
            if self.on_disk().complete:
                break
        disk = self.on_disk()
        assert disk.complete
        assert disk.tally.rows == len(self.rows)
        given_up = {row for commit in disk.counted for row in self.given_up[commit.attempt]}
        assert disk.tally.quarantined == len(given_up)
        assert self.poison <= given_up
        assert all(self.accidents.get(row, 0) >= 2 for row in given_up - self.poison)


def test_no_schedule_loses_or_doubles_a_row():
    number = int(os.environ["DGBATCH_SEED"])
    quick = settings(max_examples=SCHEDULES, stateful_step_count=STEPS, deadline=None, derandomize=False, database=None)
    run_state_machine_as_test(seed(number)(Schedule), settings=quick)
