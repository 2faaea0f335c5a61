"""100 random schedules of faults against the parts that decide: dispatch, poison, commits, ledger; without a process.

Workers die, shards fail, drivers die and are followed by others, a rival driver commits the same shard first. After
each step every row is in one place; in the end every row is committed once, and only rows that kill are given up.
`DGBATCH_SEED=7 just test-faults -k pure` gives a day's schedules again.
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
from dgbatch.runner.commits import Commit, FileRecord, list_records, part_name, put_commit, read_commit
from dgbatch.runner.dispatch import Dispatch, Task
from dgbatch.runner.folder import Folder
from dgbatch.runner.ledger import Ledger
from dgbatch.runner.plan import Shard

pytestmark = pytest.mark.faults

SCHEDULES = 100
STEPS = 60
WORKERS = ("w0", "w1", "w2")
MOST_SUBMITS = 200
SHARDS = st.lists(st.integers(1, 6), min_size=1, max_size=4)
Row = tuple[int, int]  # shard, position in it


class MemoryFolder(Folder):
    """What put_if_absent promises, without a disk."""

    def __init__(self) -> None:
        super().__init__("memory")
        self.files: dict[str, bytes] = {}

    def put_if_absent(self, name: str, data: bytes) -> bool:
        return self.files.setdefault(name, data) is data

    def get(self, name: str) -> bytes:
        return self.files[name]

    def list(self, folder: str = "") -> list[str]:
        return sorted(name for name in self.files if name.startswith(f"{folder}/"))


class Schedule(RuleBasedStateMachine):
    """A run whose driver, workers and disk are a few dictionaries."""

    @initialize(sizes=SHARDS, shard_attempts=st.sampled_from([1, 1, 2, 3]), dice=st.randoms(use_true_random=False))
    def new_run(self, sizes: list[int], shard_attempts: int, dice: random.Random) -> None:
        self.shards = [Shard(n, "prompts.parquet", n, 0, rows, rows) for n, rows in enumerate(sizes)]
        self.rows = {(shard.index, row) for shard in self.shards for row in range(shard.rows)}
        self.poison = {row for row in sorted(self.rows) if dice.random() < 0.15}
        self.accidents: dict[Row, int] = {}  # deaths of a worker that had just this row, and not by its fault
        self.shard_attempts = shard_attempts
        self.folder = MemoryFolder()
        self.noted = b""  # attempts.json
        self.attempt = 0
        self.given_up: dict[str, set[Row]] = {}  # by attempt: the rows in its quarantine file
        self.new_driver()

    # ---- a driver

    def new_driver(self) -> None:
        """What a submit begins with: what the disk says."""
        self.ledger = self.on_disk()
        due = [shard for shard in self.shards if not self.ledger.is_done(shard.index)]
        known = attempts.from_json(self.noted, "run", self.shards) if self.noted else {}
        tries = {index: each for index, each in known.items() if not self.ledger.is_done(index)}
        self.dispatch = Dispatch(due, self.shard_attempts, tries)
        self.tasks: dict[str, list[Task]] = {worker: [] for worker in WORKERS}

    def on_disk(self) -> Ledger:
        records = [read_commit(self.folder, "run", name) for name in list_records(self.folder)]
        return Ledger.of(self.shards, records)

    def note(self) -> None:
        self.noted = attempts.to_json(self.dispatch.tries, "run")

    def lose(self, worker: str) -> None:
        self.tasks[worker] = []
        self.dispatch.lost(worker, "the process died")
        self.note()

    def commit(self, shard: Shard, poison: set[int]) -> None:
        """What Run.commit does: nothing that would not count, then put if absent."""
        self.attempt += 1
        attempt = f"{self.attempt:08x}"
        self.given_up[attempt] = {(shard.index, row) for row in poison}
        files = [
            FileRecord(part_name(kind, shard.index, attempt, "parquet"), rows, 1, "0" * 64) if rows else None
            for kind, rows in (("data", shard.rows - len(poison)), ("quarantine", len(poison)))
        ]
        commit = Commit(
            shard.index, attempt, *files, shard.rows - len(poison), len(poison), 0, 1, 1, 1, 1, 0.5, "w0", ""
        )  # fmt: skip
        if self.ledger.accepts(commit):
            won = put_commit(self.folder, "run", commit)
            self.ledger.add(commit if won else read_commit(self.folder, "run", commit.name))

    def work(self, worker: str) -> None:
        """The worker does its oldest task, and tells; or dies of it."""
        task = self.tasks[worker].pop(0)
        whole = range(task.shard.rows)
        run = {(task.shard.index, row) for row in (task.probe or whole) if row not in task.poison}
        if run & self.poison:
            self.lose(worker)
        elif task.probe is not None:
            self.dispatch.probed(worker, task.shard.index)
            self.note()
        else:
            self.commit(task.shard, set(task.poison))
            self.dispatch.finished(worker, task.shard.index)

    def alone(self) -> list[str]:
        """Workers that try a single row."""
        return [worker for worker in WORKERS for task in self.tasks[worker] if task.probe and len(task.probe) == 1]

    # ---- what may happen

    @rule(worker=st.sampled_from(WORKERS), rows=st.integers(1, 12))
    def ask(self, worker: str, rows: int) -> None:
        self.tasks[worker] += self.dispatch.next_for(worker, rows)

    @precondition(lambda self: any(self.tasks.values()))
    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        self.work(data.draw(st.sampled_from([worker for worker in WORKERS if self.tasks[worker]])))

    @rule(worker=st.sampled_from(WORKERS))
    def worker_dies(self, worker: str) -> None:
        for task in self.tasks[worker]:
            if task.probe is not None and len(task.probe) == 1:
                row = (task.shard.index, task.probe[0])
                self.accidents[row] = self.accidents.get(row, 0) + 1
        self.lose(worker)

    @precondition(lambda self: self.alone())
    @rule(data=st.data())
    def worker_dies_with_one_row_in_its_hands(self, data: st.DataObject) -> None:
        """Rare, and the moment at which an innocent row could be condemned."""
        self.worker_dies(data.draw(st.sampled_from(self.alone())))

    @precondition(lambda self: any(task.probe is None for tasks in self.tasks.values() for task in tasks))
    @rule(data=st.data())
    def shard_fails(self, data: st.DataObject) -> None:
        """Disk full, or the store away, when its file was to be written."""
        held = [(worker, task) for worker in WORKERS for task in self.tasks[worker] if task.probe is None]
        worker, task = data.draw(st.sampled_from(held))
        self.tasks[worker].remove(task)
        self.dispatch.failed(worker, task.shard.index)
        self.note()

    @rule()
    def driver_dies(self) -> None:
        self.new_driver()

    @rule(data=st.data())
    def rival_commits(self, data: st.DataObject) -> None:
        """A driver that had lost its lock, and did not know it yet, commits with a worker of its own."""
        shard = data.draw(st.sampled_from(self.shards))
        ours, self.ledger = self.ledger, self.on_disk()
        self.commit(shard, {row for index, row in self.poison if index == shard.index})
        self.ledger = ours

    # ---- what must hold

    @invariant()
    def every_shard_is_in_one_place(self) -> None:
        running = [index for held in self.dispatch.running.values() for index in held]
        places = [shard.index for shard in self.dispatch.pending] + running + list(self.dispatch.given_up)
        places += [shard.index for shard in self.shards if self.ledger.is_done(shard.index)]
        assert sorted(places) == [shard.index for shard in self.shards]

    @invariant()
    def no_row_is_committed_twice(self) -> None:
        disk = self.on_disk()
        for shard in self.shards:
            spans = [commit.span or (0, shard.selected) for commit in disk.of_shard(shard.index)]
            covered = [row for span in spans for row in range(*span)]
            assert len(covered) == len(set(covered))

    @invariant()
    def what_the_driver_believes_is_on_the_disk(self) -> None:
        disk = {commit.name for commit in self.on_disk().counted}
        assert {commit.name for commit in self.ledger.counted} <= disk

    def teardown(self) -> None:
        """From here on nothing goes wrong any more but the rows that kill: it must come to an end."""
        if not hasattr(self, "shards"):
            return
        for _ in range(MOST_SUBMITS):
            while not self.dispatch.done:
                for worker in WORKERS:
                    self.tasks[worker] += self.dispatch.next_for(worker, 4)
                    if self.tasks[worker]:
                        self.work(worker)
            if self.on_disk().complete:
                break
            self.new_driver()
        disk = self.on_disk()
        assert disk.complete
        assert not disk.lost
        assert disk.tally.rows == len(self.rows)
        given_up = {row for commit in disk.counted for row in self.given_up[commit.attempt]}
        assert disk.tally.quarantined == len(given_up)
        assert self.poison <= given_up
        assert all(self.accidents.get(row, 0) >= 2 for row in given_up - self.poison)


def test_no_schedule_loses_or_doubles_a_row():
    number = int(os.environ.get("DGBATCH_SEED") or random.SystemRandom().randrange(10**6))
    print(f"DGBATCH_SEED={number}")
    quick = settings(max_examples=SCHEDULES, stateful_step_count=STEPS, deadline=None, derandomize=False, database=None)
    run_state_machine_as_test(seed(number)(Schedule), settings=quick)
