"""Faults on purpose: a folder whose disk is full or whose store errs, and processes killed around a commit.

Only `dgbatch chaos` switches this on, by naming a folder of switches in the environment variable DGBATCH_FAULTS:

    disk-full                while it is there, every write is refused
    store-errors             a number: this share of all requests is refused, and asked again as store.py asks a store
    kill-<victim>@<moment>   a worker or the driver is killed at this moment of a shard; once, and of the nth shard of
                             the process that is at it when the file holds an n
    log.jsonl                what was refused and who was killed: a fault that is not in it did not happen

| moment | what is there |
| --- | --- |
| `generated` | the rows of a shard, in its worker's memory |
| `written` | its file of rows |
| `committed` | its commit record |
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from dgbatch.errors import StoreFailed
from dgbatch.runner.commits import COMMITS
from dgbatch.runner.fault_injection.processes import await_end
from dgbatch.runner.storage import folder as plain
from dgbatch.runner.storage.folder import Folder
from dgbatch.runner.storage.store import RETRY_S, pauses

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

VARIABLE = "DGBATCH_FAULTS"
DISK_FULL = "disk-full"
STORE_ERRORS = "store-errors"
LOG = "log.jsonl"
Victim = Literal["worker", "driver"]
Moment = Literal["generated", "written", "committed"]
VICTIMS: tuple[Victim, ...] = get_args(Victim)
MOMENTS: tuple[Moment, ...] = get_args(Moment)


def open_folder(path: str | os.PathLike[str]) -> Folder:
    """The folder at this path: a plain one, but for `dgbatch chaos`."""
    switches = os.environ.get(VARIABLE)
    folder = plain.open_folder(path)
    return FaultyFolder(folder, Switches(switches)) if switches else folder


class Switches:
    """Which faults are on, and what came of them, for all processes of a run: a folder of small files."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)

    def on(self, name: str, value: str = "") -> None:
        self.path.joinpath(name).write_text(value)

    def off(self, name: str) -> None:
        self.path.joinpath(name).unlink(missing_ok=True)

    def is_on(self, name: str) -> bool:
        return self.path.joinpath(name).exists()

    def value(self, name: str) -> str | None:
        """What it was switched on with; None while it is off."""
        try:
            return self.path.joinpath(name).read_text()
        except FileNotFoundError:
            return None

    def take(self, name: str) -> bool:
        """Switch it off; True for the one process that did."""
        try:
            self.path.joinpath(name).unlink()
        except FileNotFoundError:
            return False
        return True

    def kill(self, name: str, pid: int) -> None:
        """What a kill switch asks for, with its line in the log before it: the process may be this one."""
        self.note(name, pid=pid)
        os.kill(pid, signal.SIGKILL)
        await_end(pid)

    def note(self, fault: str, **fields: Any) -> None:
        """One line in the log, whole even when several processes write at once."""
        line = json.dumps({"at": time.time(), "fault": fault, "by": os.getpid(), **fields}) + "\n"
        handle = os.open(self.path / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def log(self, fault: str = "") -> list[dict[str, Any]]:
        """What happened, oldest first; of one kind of fault when it is named."""
        try:
            lines = self.path.joinpath(LOG).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line for line in map(json.loads, lines) if fault in ("", line["fault"])]


def kill_switch(victim: str, moment: str) -> str:
    return f"kill-{victim}@{moment}"


class FaultyFolder(Folder):
    """Another folder that fails when the switches say so."""

    def __init__(self, folder: Folder, switches: Switches):
        super().__init__(folder.path)
        self._folder = folder
        self.switches = switches
        # One request in so many is refused, which ones is another matter in each process: few must not mean none.
        self._owed = random.Random(f"{switches.path.name}:{os.getpid()}").random()
        self._shards: Counter[str] = Counter()  # that this process has seen at each moment

    def put_if_absent(self, name: str, data: bytes) -> bool:
        is_data, is_commit = name.startswith("data/"), name.startswith(f"{COMMITS}/")
        if is_data:
            self._kill_at("generated")
        self._may_fail("put_if_absent", name, writes=True)
        done = self._folder.put_if_absent(name, data)
        if is_data:
            self._kill_at("written")
        if is_commit:
            self._kill_at("committed")
        return done

    def put(self, name: str, data: bytes) -> None:
        self._may_fail("put", name, writes=True)
        self._folder.put(name, data)

    def append(self, name: str, line: bytes) -> None:
        self._may_fail("append", name, writes=True)
        self._folder.append(name, line)

    def get(self, name: str) -> bytes:
        self._may_fail("get", name)
        return self._folder.get(name)

    def list(self, folder: str = "") -> Sequence[str]:
        self._may_fail("list", folder)
        return self._folder.list(folder)

    def versions(self, folder: str = "") -> Mapping[str, str]:
        self._may_fail("list", folder)
        return self._folder.versions(folder)

    def log(self, name: str) -> bytes:
        return self._folder.log(name)

    def at(self, name: str) -> Path | str:
        return self._folder.at(name)

    def exists(self, name: str) -> bool:
        return self._folder.exists(name)

    def partials(self, folder: str = "") -> Sequence[str]:
        return self._folder.partials(folder)

    def entries(self, folder: str = "") -> Sequence[str]:
        return self._folder.entries(folder)

    def is_free(self) -> bool:
        return self._folder.is_free()

    def is_file(self) -> bool:
        return self._folder.is_file()

    def delete(self, name: str) -> None:
        self._folder.delete(name)

    def dataset(self, names: Sequence[str], schema: pa.Schema, fmt: str) -> ds.Dataset:
        return self._folder.dataset(names, schema, fmt)

    def _may_fail(self, verb: str, name: str, writes: bool = False) -> None:
        if writes and self.switches.is_on(DISK_FULL):
            self.switches.note(DISK_FULL, verb=verb, name=name)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for pause in pauses(RETRY_S):
            if not self._refuses(verb, name):
                return
            if pause is None:
                raise StoreFailed(errno.EIO, f"{self.at(name)}: the store answered 503 SlowDown, on purpose")
            time.sleep(pause)

    def _refuses(self, verb: str, name: str) -> bool:
        self._owed += float(self.switches.value(STORE_ERRORS) or 0)
        if self._owed < 1:
            return False
        self._owed -= 1
        self.switches.note(STORE_ERRORS, verb=verb, name=name)
        return True

    def _kill_at(self, moment: Moment) -> None:
        self._shards[moment] += 1
        for victim in VICTIMS:
            switch = kill_switch(victim, moment)
            nth = self.switches.value(switch)
            if nth is not None and self._shards[moment] >= int(nth or 1) and self.switches.take(switch):
                self.switches.kill(switch, driver_pid(self) if victim == "driver" else self._worker_pid(moment))

    def _worker_pid(self, moment: Moment) -> int:
        """Workers write, the driver commits: of those at work, it takes the one that was ready last."""
        if moment != "committed":
            return os.getpid()
        return [pid for _, pid in workers_at_work(self)][-1]


def driver_pid(folder: Folder) -> int:
    """Whoever holds the lock of the run in this folder. KeyError, ValueError or OSError when nobody does."""
    return int(json.loads(folder.get("_dgbatch/lock.json"))["pid"])


def workers_at_work(folder: Folder) -> Iterator[tuple[str, int]]:
    """Name and pid of the workers that the run's events tell of since its last start, in the order they were ready."""
    ready: dict[str, int] = {}
    for line in folder.log("_dgbatch/events.jsonl").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # being written, or cut short by a crash
        if event["kind"] == "started":
            ready.clear()
        elif event["kind"] == "worker_ready":
            ready[event["worker"]] = int(event["where"].rpartition(":")[2])
        elif event["kind"] in ("worker_lost", "worker_left"):
            ready.pop(event["worker"], None)
    yield from ready.items()
