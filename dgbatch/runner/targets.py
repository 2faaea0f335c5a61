"""Where Prometheus finds the jobs of this machine: a small file for each driver that serves metrics (file_sd).

The file goes with its driver. One whose driver was killed is removed by the next one.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path

from dgbatch.runner.processes import is_alive, supported

VARIABLE = "DGBATCH_TARGETS"
_NAME = re.compile(r".+-(?P<pid>\d+)\.json")


def targets_folder() -> Path:
    """$DGBATCH_TARGETS, else dgbatch/targets where programs keep their state."""
    if said := os.environ.get(VARIABLE):
        return Path(said)
    state = os.environ.get("XDG_STATE_HOME", "")
    return Path(state if os.path.isabs(state) else Path.home() / ".local" / "state") / "dgbatch" / "targets"


class Target:
    """The file of this driver. Raises OSError where it cannot be written."""

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
    """Files of drivers that are not there any more."""
    for path in folder.glob("*.json"):
        match = _NAME.fullmatch(path.name)
        if match and not _exists(int(match["pid"])):
            with suppress(OSError):
                path.unlink()


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
