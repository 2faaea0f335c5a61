"""Where Prometheus finds the jobs of this machine: a small file for each driver that serves metrics (file_sd).

The file goes with its driver. One whose driver was killed is removed by the next one.
"""

from __future__ import annotations

import json
import os
import re
import socket
from contextlib import suppress
from pathlib import Path

from dgbatch.errors import OutputError
from dgbatch.runner.fault_injection.processes import is_alive, supported

VARIABLE = "DGBATCH_TARGETS"
_NAME = re.compile(r".+-(?P<pid>\d+)\.json")


def targets_folder() -> Path:
    """$DGBATCH_TARGETS, else dgbatch/targets where programs keep their state. OutputError for a user without a home."""
    if said := os.environ.get(VARIABLE):
        return Path(said)
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        state = os.path.expanduser("~/.local/state")
    if not os.path.isabs(state):  # as in containers
        raise OutputError(f"you have no home folder. Set {VARIABLE} to a folder for the files that name drivers.")
    return Path(state, "dgbatch", "targets")


class Target:
    """The file of this driver. Raises OSError where it cannot be written, and what `targets_folder` raises."""

    def __init__(self, job: str, target: str):
        folder = targets_folder()
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder)
        self.path = folder / f"{job}-{os.getpid()}.json"
        replace_whole(self.path, json.dumps([{"targets": [target], "labels": {"job": job}}]).encode() + b"\n")

    def remove(self) -> None:
        with suppress(OSError):
            self.path.unlink()


def remove_stale(folder: Path) -> None:
    """Files of drivers of this machine that are not there any more; those of others, in a shared folder, stay."""
    for path in folder.glob("*.json"):
        match = _NAME.fullmatch(path.name)
        if match and not _exists(int(match["pid"])) and _is_here(path):
            with suppress(OSError):
                path.unlink()


def _is_here(path: Path) -> bool:
    """Whether it names an address of this machine: one that can be listened on. True where it names none."""
    try:
        host = json.loads(path.read_text())[0]["targets"][0].rpartition(":")[0].strip("[]")
    except (OSError, ValueError, LookupError, TypeError):
        return True
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


def _exists(pid: int) -> bool:
    if supported():
        return is_alive(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def replace_whole(path: Path, data: bytes) -> None:
    """A reader sees the old file or the new one, never half of either."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink()
