"""One folder on a local disk: files appear whole or not at all. All that a run reads and writes goes through here.

It does not know what the files mean. An object store will offer the same verbs, with If-None-Match where `os.link` is
here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

PARTIAL = ".partial"  # ".<name>.<hex>.partial": never matched by a glob for *.parquet, and nobody's data


class Folder:
    """Files under one path, named relative to it with forward slashes."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = str(path)

    def at(self, name: str) -> Path:
        """Where this file lies on disk."""
        return Path(self.path, name)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """All of the bytes under this name, or none; False, and nothing changed, when the name is taken."""
        target = self.at(name)
        partial = self._write_beside(target, data)
        try:
            os.link(partial, target)
        except FileExistsError:
            # On NFS the answer of a link that worked may be lost and asked for again: two names then say it is ours.
            if os.stat(partial).st_nlink < 2:
                return False
        finally:
            os.unlink(partial)
        _sync_folder(target.parent)
        return True

    def put(self, name: str, data: bytes) -> None:
        """All of the bytes under this name, in place of what was there."""
        target = self.at(name)
        partial = self._write_beside(target, data)
        try:
            os.replace(partial, target)
        except OSError:
            os.unlink(partial)
            raise
        _sync_folder(target.parent)

    def append(self, name: str, line: bytes) -> None:
        """One line at the end of a log; a line that a crash cut short is closed first."""
        target = self.at(name)
        _make_folder(target.parent)
        with open(target, "ab+") as file:
            torn = file.tell() > 0 and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n"
            file.write((b"\n" if torn else b"") + line + b"\n")

    def get(self, name: str) -> bytes:
        return self.at(name).read_bytes()

    def exists(self, name: str) -> bool:
        return self.at(name).exists()

    def list(self, folder: str = "") -> Sequence[str]:
        """Names of the files directly in this folder, sorted; without those that are still being written."""
        return [name for name in self._all(folder) if not is_partial(name)]

    def partials(self, folder: str = "") -> Sequence[str]:
        """What was being written when a process died, or is being written now."""
        return [name for name in self._all(folder) if is_partial(name)]

    def delete(self, name: str) -> None:
        """No file under this name any more; it may be gone already."""
        self.at(name).unlink(missing_ok=True)

    def _all(self, folder: str) -> Iterator[str]:
        try:
            names = sorted(os.listdir(self.at(folder)))
        except FileNotFoundError:
            return
        for name in names:
            if not self.at(folder).joinpath(name).is_dir():
                yield f"{folder}/{name}" if folder else name

    def _write_beside(self, target: Path, data: bytes) -> Path:
        _make_folder(target.parent)
        partial = target.parent / f".{target.name}.{uuid4().hex}{PARTIAL}"
        try:
            with open(partial, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            partial.unlink(missing_ok=True)  # a full disk should not stay full of our halves
            raise
        return partial


def is_partial(name: str) -> bool:
    base = name.rsplit("/", 1)[-1]
    return base.startswith(".") and base.endswith(PARTIAL)


def _make_folder(path: Path) -> None:
    """Like mkdir -p, and a power cut does not take the new folders away again."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    with suppress(FileExistsError):
        os.mkdir(path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
