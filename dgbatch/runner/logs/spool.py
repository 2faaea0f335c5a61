"""What processes of a run have said on this machine and nobody has put into the run yet: a private folder under /tmp.

    <process>.lock       held for as long as the process lives
    <process>.<n>.raw    standard error and output, as native code and Python wrote them; what was read is blanked out
    <chunk>.jsonl        where the run lies in an object store: chunks on their way to it

A process that dies leaves its last words here, whatever killed it. Any other process of the run on this machine finds
them, because the lock is free, and puts them into the run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

STALE_S = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Left:
    """What a process left that is not there any more."""

    stem: str  # submit.worker.process
    raw: tuple[Path, ...]
    chunks: tuple[Path, ...]
    lock: Path

    def remove(self) -> None:
        for path in (*self.raw, *self.chunks, self.lock):
            path.unlink(missing_ok=True)


class Spool:
    """One process's place in the spool of a run. Raises OSError where this machine has no room for one."""

    def __init__(self, run_path: str, stem: str):
        self.folder = _private(Path(tempfile.gettempdir(), f"dgbatch-logs-{os.getuid()}"))
        self.folder = _private(self.folder / hashlib.sha256(run_path.encode()).hexdigest()[:16])
        self.stem = stem
        path = self.folder / f"{stem}.lock"
        while True:
            self._lock = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._lock), path.stat()):
                    return
            os.close(self._lock)  # somebody took it for that of a dead process before it was held

    def raw(self, number: int) -> Path:
        return self.folder / f"{self.stem}.{number}.raw"

    def left(self) -> Iterator[Left]:
        """What dead processes left; nobody else gets it while the caller has it."""
        for lock in sorted(self.folder.glob("*.lock")):
            stem = lock.name.removesuffix(".lock")
            if stem == self.stem:
                continue
            with suppress(OSError):
                handle = os.open(lock, os.O_WRONLY)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    raw = sorted(self.folder.glob(f"{stem}.*.raw"), key=lambda path: int(path.name.split(".")[-2]))
                    yield Left(stem, tuple(raw), tuple(sorted(self.folder.glob(f"{stem}.*.jsonl"))), lock)
                finally:
                    os.close(handle)

    def others(self) -> list[str]:
        """Stems of all other processes that have a place here, alive or not."""
        return [stem for path in self.folder.glob("*.lock") if (stem := path.name.removesuffix(".lock")) != self.stem]

    def close(self) -> None:
        """Remove what is this process's; and the spool, when it was the last."""
        with suppress(OSError):
            for path in self.folder.glob(f"{self.stem}.*"):
                path.unlink(missing_ok=True)
        os.close(self._lock)
        with suppress(OSError):
            self.folder.rmdir()


def forget_stale(folder: Path, older_than_s: float = STALE_S) -> None:
    """Remove what dead processes left beside this spool a week ago, of runs that nobody submitted again."""
    before = time.time() - older_than_s
    for other in folder.parent.iterdir():
        with suppress(OSError):
            files = list(other.iterdir())
            if other == folder or any(path.stat().st_mtime > before or _is_held(path) for path in files):
                continue
            for path in files:
                path.unlink()
            other.rmdir()


def _is_held(path: Path) -> bool:
    """Whether this is the lock of a process that lives."""
    if path.suffix != ".lock":
        return False
    with open(path, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def unread(raw: Path) -> list[str]:
    """Lines of a raw file that were not blanked out."""
    return raw.read_bytes().lstrip(b"\0").decode("utf-8", "replace").splitlines()


def _private(folder: Path) -> Path:
    """The folder, ours alone: in /tmp others may have made it before us."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise PermissionError(f"{folder}: is not a private folder of this user")
    return folder
