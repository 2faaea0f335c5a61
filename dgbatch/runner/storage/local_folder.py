"""A folder on a local disk: files appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from dgbatch.runner.storage.folder import PARTIAL, Folder, is_partial

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds


class LocalFolder(Folder):
    """Files under one path of this machine."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = str(path)

    def at(self, name: str) -> Path:
        return Path(self.path, name)

    def put_if_absent(self, name: str, data: bytes) -> bool:
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
        target = self.at(name)
        partial = self._write_beside(target, data)
        try:
            os.replace(partial, target)
        except OSError:
            os.unlink(partial)
            raise
        _sync_folder(target.parent)

    def append(self, name: str, line: bytes) -> None:
        """A line that a crash cut short is closed first."""
        target = self.at(name)
        _make_folder(target.parent)
        with open(target, "ab+") as file:
            torn = file.tell() > 0 and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n"
            file.write((b"\n" if torn else b"") + line + b"\n")

    def log(self, name: str) -> bytes:
        return self.get(name) if self.exists(name) else b""

    def get(self, name: str) -> bytes:
        return self.at(name).read_bytes()

    def exists(self, name: str) -> bool:
        return self.at(name).exists()

    def list(self, folder: str = "") -> Sequence[str]:
        return [name for name in self._all(folder) if not is_partial(name)]

    def versions(self, folder: str = "") -> Mapping[str, str]:
        found = {}
        with suppress(FileNotFoundError), os.scandir(self.at(folder)) as entries:
            for entry in entries:
                if is_partial(entry.name) or entry.is_dir():
                    continue
                with suppress(FileNotFoundError):  # deleted a moment ago: the others are still there
                    state = entry.stat()
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    found[name] = f"{state.st_size}-{state.st_mtime_ns}-{state.st_ino}"
        return dict(sorted(found.items()))

    def partials(self, folder: str = "") -> Sequence[str]:
        return [name for name in self._all(folder) if is_partial(name)]

    def entries(self, folder: str = "") -> Sequence[str]:
        where = self.at(folder)
        return (
            sorted(name + "/" * where.joinpath(name).is_dir() for name in os.listdir(where)) if where.is_dir() else []
        )

    def is_free(self) -> bool:
        return not os.path.lexists(self.path) or (os.path.isdir(self.path) and not os.listdir(self.path))

    def is_file(self) -> bool:
        return os.path.exists(self.path) and not os.path.isdir(self.path)

    def delete(self, name: str) -> None:
        self.at(name).unlink(missing_ok=True)

    def dataset(self, names: Sequence[str], schema: pa.Schema, fmt: str) -> ds.Dataset:
        import pyarrow.dataset as ds

        return ds.dataset([str(self.at(name)) for name in names], schema=schema, format=fmt)

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
