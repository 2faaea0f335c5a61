"""The lock of a run on a disk: a file that its owner touches, changed only under a second file's flock.

How old a lock is, is told by the disk's own clock.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from dgbatch.runner.layout import GUARD, LOCK, OURS, PARTS
from dgbatch.runner.storage import lock
from dgbatch.runner.storage.local_folder import LocalFolder
from dgbatch.runner.storage.lock import Owner


class LocalLock:
    """A held lock; see lock.lock."""

    def __init__(self, folder: LocalFolder, owner: Owner, made: list[Path]):
        self.folder = folder
        self.owner = owner
        self.lost = False
        self._made = made  # folders that were not there before
        self._released = threading.Event()
        self._heartbeat = threading.Thread(target=self._keep_fresh, name="lock heartbeat", daemon=True)
        self._heartbeat.start()

    def _keep_fresh(self) -> None:
        while not self._released.wait(lock.HEARTBEAT_S):
            try:
                with _guard(self.folder):
                    self.lost = _read(self.folder) != self.owner
                    if self.lost:
                        return
                    os.utime(self.folder.at(LOCK))
            except OSError:
                continue  # a disk that is away for a moment; if it stays away, others see a stale lock

    def release(self) -> None:
        """Let others in. Does nothing to a lock that somebody took over."""
        self._released.set()
        self._heartbeat.join()
        with suppress(OSError), _guard(self.folder):  # a disk that is away takes the lock with it; it goes stale
            if _read(self.folder) == self.owner:
                self.folder.delete(LOCK)
        _tidy(self.folder, self._made)


def take(folder: LocalFolder) -> LocalLock:
    """The lock of this run, now ours. Raises RunLocked."""
    made = [path for path in (folder.at(OURS), Path(folder.path)) if not path.exists()]
    with _guard(folder):
        found = _read(folder)
        if (
            found is not None
            and not found.is_gone
            and _age_s(folder, os.stat(folder.at(GUARD)).st_mtime) <= lock.STALE_S
        ):
            raise lock.locked(folder, found)
        mine = Owner.me()
        folder.put(LOCK, json.dumps(asdict(mine)).encode())
    return LocalLock(folder, mine, made)


def owner_of(folder: LocalFolder) -> Owner | None:
    """Who works on this run now; None when nobody does."""
    found = _read(folder)
    return None if found is None or found.is_gone or _age_s(folder, time.time()) > lock.STALE_S else found


def _read(folder: LocalFolder) -> Owner | None:
    """What the lock file says. None without one, and for one that says nothing readable: nobody can own that."""
    try:
        return Owner(**json.loads(folder.get(LOCK)))
    except (OSError, ValueError, TypeError):
        return None


def _age_s(folder: LocalFolder, now: float) -> float:
    """Seconds since the owner freshened the lock. To decide by it, take `now` from the guard: the disk's own clock.

    A lock from the future is as old as it is early: its owner would have freshened it since the clock went back.
    """
    try:
        return abs(now - os.stat(folder.at(LOCK)).st_mtime)
    except FileNotFoundError:
        return float("inf")


@contextmanager
def _guard(folder: LocalFolder) -> Iterator[None]:
    """Alone with the lock file for a moment; freshens the guard, which says what time it is on this disk."""
    path = folder.at(GUARD)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):  # not tidied away meanwhile
                os.utime(path)
                yield
                return


def _tidy(folder: LocalFolder, made: list[Path]) -> None:
    """When no run came of it, take away what the lock alone has made."""
    if made and [*folder.list(OURS)] == [GUARD]:
        with _guard(folder):
            if not folder.exists(LOCK):
                folder.delete(GUARD)
        left = [folder.at(f"{OURS}/{name}") for name in folder.entries(OURS) if name.endswith("/")]  # logs, and such
        left += [folder.at(name) for name in PARTS if folder.at(name).is_dir()]
        for path in [*left, *made]:
            try:
                path.rmdir()
            except OSError:
                return  # somebody uses it
