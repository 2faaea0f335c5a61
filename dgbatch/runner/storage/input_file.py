"""One input file by its path or URI: open it, and tell whether it is still the same."""

from __future__ import annotations

import os
from typing import Any, BinaryIO, cast

import pyarrow as pa

from dgbatch.runner.storage.store_uri import is_uri

Stamp = tuple[int, str]  # size, and what changes with the bytes


def open_input(path: str) -> BinaryIO:
    """For reading, with seek. Raises OSError."""
    if not is_uri(path):
        return open(path, "rb")
    from dgbatch.runner.storage.store import open_store
    from dgbatch.runner.storage.store_file import StoreFile

    store, key = open_store(path)
    found = store.find(key)
    if found is None:
        raise FileNotFoundError(path)
    return cast(BinaryIO, StoreFile(store, found))


def for_parquet(path: str) -> Any:
    """What pyarrow's Parquet reader takes; a file on this disk it opens itself."""
    return open_input(path) if is_uri(path) else path


def for_arrow(path: str, mapped: bool) -> Any:
    """What pyarrow's reader of Arrow files takes. mapped: a file on this disk is looked into, not read."""
    if is_uri(path):
        return pa.PythonFile(open_input(path), mode="r")
    return pa.memory_map(path) if mapped else pa.OSFile(path)


def stamp(path: str) -> Stamp:
    """Size in bytes, and a text that is another one when the file was written again. Raises OSError."""
    if not is_uri(path):
        state = os.stat(path)
        return state.st_size, str(state.st_mtime_ns)
    from dgbatch.runner.storage.store import open_store

    store, key = open_store(path)
    found = store.find(key)
    if found is None:
        raise FileNotFoundError(path)
    return found.size, found.tag


def is_file(path: str) -> bool:
    try:
        stamp(path)
    except FileNotFoundError:
        return False
    return is_uri(path) or os.path.isfile(path)
