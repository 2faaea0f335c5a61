"""One folder of files: all that a run reads and writes goes through here, on a disk or in an object store.

It does not know what the files mean. A file appears whole or not at all, wherever it lies.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

PARTIAL = ".partial"  # ".<name>.<hex>.partial": never matched by a glob for *.parquet, and nobody's data


class Folder(ABC):
    """Files under one path, named relative to it with forward slashes. `open_folder` makes one.

    Every verb raises OSError when the disk or the store fails it; FileNotFoundError when there is no such file.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = str(path)

    @abstractmethod
    def at(self, name: str) -> Path | str:
        """Where this file lies, for people."""

    @abstractmethod
    def put_if_absent(self, name: str, data: bytes) -> bool:
        """All of the bytes under this name, or none; False, and nothing changed, when the name is taken."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """All of the bytes under this name, in place of what was there."""

    @abstractmethod
    def append(self, name: str, line: bytes) -> None:
        """One line at the end of a log, which is read by `log`."""

    @abstractmethod
    def log(self, name: str) -> bytes:
        """All lines that were appended under this name; nothing where none was."""

    @abstractmethod
    def get(self, name: str) -> bytes:
        """All bytes of a file."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""

    @abstractmethod
    def list(self, folder: str = "") -> Sequence[str]:
        """Names of the files directly in this folder, sorted; without those that are still being written."""

    @abstractmethod
    def versions(self, folder: str = "") -> Mapping[str, str]:
        """By each name that `list` gives: a text that is another one when the file is put anew with other bytes."""

    @abstractmethod
    def partials(self, folder: str = "") -> Sequence[str]:
        """What was being written when a process died, or is being written now."""

    @abstractmethod
    def entries(self, folder: str = "") -> Sequence[str]:
        """Last parts of the names of everything directly in this folder, sorted; those of folders end in a slash."""

    @abstractmethod
    def is_free(self) -> bool:
        """Whether there is nothing at all under the path."""

    @abstractmethod
    def is_file(self) -> bool:
        """Whether the path itself is a file, so that nothing can lie in it."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """No file under this name any more; it may be gone already."""

    @abstractmethod
    def dataset(self, names: Sequence[str], schema: pa.Schema, fmt: str) -> ds.Dataset:
        """These files, which are all there, as one table in this order. fmt: parquet or ipc."""


def open_folder(path: str | os.PathLike[str]) -> Folder:
    """The folder at a path of this machine or a URI. Raises LocationError for a URI that cannot be."""
    if "://" in str(path):
        from dgbatch.runner.storage.store_folder import StoreFolder

        return StoreFolder(str(path))
    from dgbatch.runner.storage.local_folder import LocalFolder

    return LocalFolder(path)


def is_partial(name: str) -> bool:
    base = name.rsplit("/", 1)[-1]
    return base.startswith(".") and base.endswith(PARTIAL)
