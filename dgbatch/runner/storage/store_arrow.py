"""A bucket as a pyarrow filesystem, for datasets: it reads through `Store` and writes nothing."""

from __future__ import annotations

import errno
from typing import Any, NoReturn

import pyarrow as pa
from pyarrow import fs

from dgbatch.runner.storage.store import Found, Store
from dgbatch.runner.storage.store_file import StoreFile


def arrow_filesystem(store: Store) -> fs.FileSystem:
    return fs.PyFileSystem(_Handler(store))


class _Handler(fs.FileSystemHandler):
    """What pyarrow asks of a filesystem, in its words."""

    def __init__(self, store: Store):
        self.store = store

    def get_type_name(self) -> str:
        return "dgbatch"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[Any]:
        return [self._info(path, self.store.find(path)) for path in paths]

    def get_file_info_selector(self, selector: Any) -> list[Any]:
        return [self._info(found.key, found) for found in self.store.below(selector.base_dir)]

    def open_input_file(self, path: str) -> pa.NativeFile:
        found = self.store.find(path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", self.store.shown(path))
        return pa.PythonFile(StoreFile(self.store, found), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def _info(self, path: str, found: Found | None) -> Any:
        if found is None:
            return fs.FileInfo(path, fs.FileType.NotFound)
        return fs.FileInfo(path, fs.FileType.File, size=found.size)

    def _only_reads(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError("datasets are read here; runs are written by Folder")

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = _only_reads
    move = copy_file = open_output_stream = open_append_stream = _only_reads
