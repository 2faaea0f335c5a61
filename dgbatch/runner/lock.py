"""One process at a time works on a run. The lock is a small file that its owner keeps fresh.

A lock is stale when its process is gone from this machine, or when nobody freshened it for STALE_S: then the next one
takes it over. Commits stay right even if two drivers work at once (the first record wins), so the lock saves work; it
does not keep the data safe.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from uuid import uuid4

from dgbatch.errors import RunLocked, of_os_error
from dgbatch.runner.folder import Folder
from dgbatch.runner.run_folder import GUARD, LOCK, OURS, refuse_foreign

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


class Lock:
    """A held lock. `lost` turns true when somebody took it over, which happens to a process that slept too long."""

    def __init__(self, folder: Folder, owner: Owner):
        self.folder = folder
        self.owner = owner
        self.lost = False
        self._released = threading.Event()
        self._heartbeat = threading.Thread(target=self._keep_fresh, name="lock heartbeat", daemon=True)
        self._heartbeat.start()

    def _keep_fresh(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
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


@contextmanager
def lock(run_path: str) -> Iterator[Lock]:
    """Hold the lock of a run while the block runs. Raises RunLocked, and OutputError where no run can live."""
    folder = Folder(run_path)
    made = [path for path in (folder.at(OURS), Path(run_path)) if not path.exists()]
    try:
        refuse_foreign(run_path)
        held = _acquire(folder)
    except OSError as error:
        raise of_os_error(error, f"output.path: {run_path} cannot be written", "Choose another folder.") from error
    try:
        yield held
    finally:
        held.release()
        _tidy(folder, made)


def owner(run_path: str) -> Owner | None:
    """Who works on this run now; None when nobody does."""
    folder = Folder(run_path)
    found = _read(folder)
    return None if found is None or found.is_gone or _age_s(folder, time.time()) > STALE_S else found


def _acquire(folder: Folder) -> Lock:
    with _guard(folder):
        found = _read(folder)
        if found is not None and not found.is_gone and _age_s(folder, os.stat(folder.at(GUARD)).st_mtime) <= STALE_S:
            raise RunLocked(
                f"{folder.path}: another process works on this run: pid {found.pid} on {found.host}, since "
                f"{found.since}. Wait for it, or end it; a lock left behind is taken over after {STALE_S:.0f} s."
            )
        mine = Owner.me()
        folder.put(LOCK, json.dumps(asdict(mine)).encode())
    return Lock(folder, mine)


def _read(folder: Folder) -> Owner | None:
    """What the lock file says. None without one, and for one that says nothing readable: nobody can own that."""
    try:
        return Owner(**json.loads(folder.get(LOCK)))
    except (OSError, ValueError, TypeError):
        return None


def _age_s(folder: Folder, now: float) -> float:
    """Seconds since the owner freshened the lock. To decide by it, take `now` from the guard: the disk's own clock."""
    try:
        return now - os.stat(folder.at(LOCK)).st_mtime
    except FileNotFoundError:
        return float("inf")


@contextmanager
def _guard(folder: Folder) -> Iterator[None]:
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


def _tidy(folder: Folder, made: list[Path]) -> None:
    """When no run came of it, take away what the lock alone has made."""
    if made and [*folder.list(OURS)] == [GUARD]:
        with _guard(folder):
            if not folder.exists(LOCK):
                folder.delete(GUARD)
        for path in made:
            try:
                path.rmdir()
            except OSError:
                return  # somebody uses it


def _started(pid: int) -> str:
    """When a process began, in a form that only has to be compared; empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return ""
