"""The lock of a run in an object store: one small object, changed only on the condition that nobody else changed it.

Taken with If-None-Match, kept fresh and taken over with If-Match: of many who find a stale lock one wins, and an owner
who slept too long finds out at its next beat. How old a lock is, is told by the store's own clock. A released lock
stays as an object that says so, because no store deletes on a condition everywhere.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from uuid import uuid4

from dgbatch.errors import OutputError
from dgbatch.runner.layout import GUARD, LOCK, OURS
from dgbatch.runner.storage import lock
from dgbatch.runner.storage.lock import Owner
from dgbatch.runner.storage.store import Found
from dgbatch.runner.storage.store_folder import StoreFolder


class StoreLock:
    """A held lock; see lock.lock."""

    def __init__(self, folder: StoreFolder, owner: Owner):
        self.folder = folder
        self.owner = owner
        self.lost = False
        self._beats = 0
        self._released = threading.Event()
        self._heartbeat = threading.Thread(target=self._keep_fresh, name="lock heartbeat", daemon=True)
        self._heartbeat.start()

    def _keep_fresh(self) -> None:
        while not self._released.wait(lock.HEARTBEAT_S):
            try:
                self.beat()
            except OSError:
                continue  # a store that is away for a moment; if it stays away, others see a stale lock
            if self.lost:
                return

    def beat(self) -> None:
        """Make the lock fresh, or find out that it is lost."""
        self._beats += 1
        self._put(_text(self.owner, self._beats))

    def release(self) -> None:
        """Let others in. Does nothing to a lock that somebody took over."""
        self._released.set()
        self._heartbeat.join()
        try:
            self._put(_text(None, 0))
        except OSError:
            return  # a store that is away takes the lock with it; it goes stale
        with suppress(OSError):
            _tidy(self.folder)

    def _put(self, data: bytes) -> None:
        held, found = read(self.folder)
        if found is None:  # somebody tidied it away
            self.lost = not self.folder.store.create(self.folder.key(LOCK), data)
        elif held != self.owner:
            self.lost = True
        elif not self.folder.store.replace(found.key, data, found):
            self.lost = read(self.folder)[0] != self.owner


def take(folder: StoreFolder) -> StoreLock:
    """The lock of this run, now ours. Raises RunLocked, and OutputError where the store ignores conditions."""
    _refuse_careless(folder)
    mine = Owner.me()
    if not folder.store.create(folder.key(LOCK), _text(mine, 0)):
        held, found = read(folder)
        if held is not None and not held.is_gone and (found is None or _age_s(folder, found) <= lock.STALE_S):
            raise lock.locked(folder, held)
        # Whoever changed it since we read it was quicker; so was whoever removed it.
        if found is None or not folder.store.replace(found.key, _text(mine, 0), found):
            raise lock.locked(folder, read(folder)[0])
    return StoreLock(folder, mine)


def owner_of(folder: StoreFolder) -> Owner | None:
    """Who works on this run now, as far as this machine's clock can tell; None when nobody does."""
    held, found = read(folder)
    if held is None or found is None or held.is_gone:
        return None
    is_stale = (datetime.now(timezone.utc) - found.modified).total_seconds() > lock.STALE_S
    return None if is_stale else held


def _tidy(folder: StoreFolder) -> None:
    """When no run came of it, take away what the lock alone has made."""
    if [*folder.entries(OURS)] == [LOCK.rpartition("/")[2]] and read(folder)[0] is None:
        folder.delete(LOCK)


def read(folder: StoreFolder) -> tuple[Owner | None, Found | None]:
    """Who holds the lock, and the object that says so; no owner in one that is released or says nothing readable."""
    try:
        found, text = folder.store.read(folder.key(LOCK))
    except FileNotFoundError:
        return None, None
    try:
        return Owner(**json.loads(text)["owner"]), found
    except (ValueError, TypeError, KeyError):
        return None, found


def _text(owner: Owner | None, beats: int) -> bytes:
    """With a number that grows: some stores know an object's version by its bytes alone."""
    return json.dumps({"owner": None if owner is None else asdict(owner), "beats": beats, "at": uuid4().hex}).encode()


def _age_s(folder: StoreFolder, found: Found) -> float:
    """Seconds since the lock was put, by the clock of the store."""
    folder.put(GUARD, uuid4().hex.encode())
    clock = folder.store.find(folder.key(GUARD))
    folder.delete(GUARD)
    return (clock.modified - found.modified).total_seconds() if clock is not None else 0.0


def _refuse_careless(folder: StoreFolder) -> None:
    """Some servers that speak S3 ignore the conditions that commits and this lock stand on."""
    key = f"{folder.key(GUARD)}.{uuid4().hex}"
    try:
        if folder.store.create(key, b"1"):
            found, _ = folder.store.read(key)
            takes_any = folder.store.create(key, b"2")
            folder.store.put(key, b"3")
            if takes_any or folder.store.replace(key, b"4", found):
                raise OutputError(
                    f"output.path: the store of {folder.path} ignores If-None-Match or If-Match, so two processes "
                    "could overwrite each other. Choose another store, or a newer version of its server."
                )
    finally:
        folder.store.delete(key)
