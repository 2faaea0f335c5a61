"""One process at a time works on a run. The lock is a small file that its owner keeps fresh.

A lock is stale when its process is gone from this machine, or when nobody freshened it for STALE_S: then the next one
takes it over. Commits stay right even if two drivers work at once (the first record wins), so the lock saves work; it
does not keep the data safe. How it is held on a disk says local_lock.py, in an object store store_lock.py.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from dgbatch.errors import RunLocked, of_os_error
from dgbatch.runner.layout import refuse_foreign
from dgbatch.runner.storage.folder import Folder, open_folder
from dgbatch.runner.storage.local_folder import LocalFolder

if TYPE_CHECKING:
    from dgbatch.runner.storage.local_lock import LocalLock
    from dgbatch.runner.storage.store_lock import StoreLock

STALE_S = 60.0
HEARTBEAT_S = 10.0


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lock."""

    host: str
    pid: int
    started: str  # boot and start time of the process: another process may get the same pid later
    since: str
    key: str

    @classmethod
    def me(cls) -> Owner:
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(socket.gethostname(), os.getpid(), _started(os.getpid()), since, uuid4().hex)

    @property
    def is_gone(self) -> bool:
        """Whether its process has surely ended; False when that cannot be seen from here."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return _started(self.pid) != self.started


@contextmanager
def lock(run_path: str) -> Iterator[LocalLock | StoreLock]:
    """Hold the lock of a run while the block runs. Raises RunLocked, and OutputError where no run can live.

    Its `lost` turns true when somebody took it over, which happens to a process that slept too long.
    """
    try:
        refuse_foreign(run_path)
        held = acquire(open_folder(run_path))
    except OSError as error:
        raise of_os_error(error, f"output.path: {run_path} cannot be written", "Choose another folder.") from error
    try:
        yield held
    finally:
        held.release()


def acquire(folder: Folder) -> LocalLock | StoreLock:
    """The lock of this run, now ours. Raises RunLocked."""
    if isinstance(folder, LocalFolder):
        from dgbatch.runner.storage.local_lock import take

        return take(folder)
    from dgbatch.runner.storage.store_folder import StoreFolder
    from dgbatch.runner.storage.store_lock import take as take_in_store

    assert isinstance(folder, StoreFolder)
    return take_in_store(folder)


def owner(run_path: str) -> Owner | None:
    """Who works on this run now; None when nobody does."""
    folder = open_folder(run_path)
    if isinstance(folder, LocalFolder):
        from dgbatch.runner.storage.local_lock import owner_of

        return owner_of(folder)
    from dgbatch.runner.storage.store_folder import StoreFolder
    from dgbatch.runner.storage.store_lock import owner_of as owner_in_store

    assert isinstance(folder, StoreFolder)
    return owner_in_store(folder)


def refuse_locked(run_path: str) -> None:
    """RunLocked while somebody is seen to work on this run."""
    with suppress(OSError):
        if (found := owner(run_path)) is not None:
            raise locked(open_folder(run_path), found)


def locked(folder: Folder, found: Owner | None) -> RunLocked:
    """What the one who comes second is told."""
    who = f": pid {found.pid} on {found.host}, since {found.since}" if found else " since just now"
    return RunLocked(
        f"{folder.path}: another process works on this run{who}. Wait for it, or end it; a lock left behind is taken "
        f"over after {STALE_S:.0f} s."
    )


def _started(pid: int) -> str:
    """When a process began, in a form that only has to be compared; empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return ""
