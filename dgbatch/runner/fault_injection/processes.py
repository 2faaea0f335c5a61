"""Processes and their children, as Linux tells of them under /proc: whom to kill, and who is left.

Ray's processes are children of children, and outlive a parent that is killed. Whoever adopts orphans can find and end
all of them by their parents alone, and nobody else's.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

END_S = 10.0  # for a killed process to be gone
LOOK_S = 0.01
PR_SET_CHILD_SUBREAPER = 36


def supported() -> bool:
    """Whether this system tells what we ask for."""
    return sys.platform == "linux" and Path("/proc/self/stat").exists()


def is_alive(pid: int) -> bool:
    """Whether it runs or could; a zombie does not."""
    return _stat(pid)[0] not in ("", "Z", "X")


def is_stopped(pid: int) -> bool:
    return _stat(pid)[0] == "T"


def await_end(pid: int, limit_s: float = END_S) -> bool:
    """Wait until this process is gone; False when it is still there after a while."""
    deadline = time.monotonic() + limit_s
    while is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_S)
    return True


def family(pid: int) -> set[int]:
    """This process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            children.setdefault(_stat(int(entry))[1], []).append(int(entry))
    found, open_ = {pid}, [pid]
    while open_:
        below = children.get(open_.pop(), [])
        found.update(below)
        open_ += below
    return found


def end(pids: Iterable[int]) -> None:
    """Kill these processes and wait until they are gone."""
    pids = list(pids)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in pids:
        await_end(pid)
        _reap(pid)


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Inside the block, a process whose parent dies becomes our child; at its end, all new ones are killed."""
    before = family(os.getpid())
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        deadline = time.monotonic() + END_S
        while (left := family(os.getpid()) - before) and time.monotonic() < deadline:
            end(left)  # the death of a parent brings more children
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _stat(pid: int) -> tuple[str, int]:
    """State and parent; ("", 0) for a process that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return "", 0
    return fields[0], int(fields[1])
