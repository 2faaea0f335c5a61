"""A folder in an object store. An object appears whole or not at all, and right after it is put everybody sees it.

Objects cannot grow: a log is rewritten with each line, until it is SEGMENT_BYTES long and goes on in the next object
(events.jsonl, events.jsonl.000002, ...).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dgbatch.runner.storage.folder import Folder
from dgbatch.runner.storage.store import WHOLE_BYTES, open_store

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

SEGMENT_BYTES = 256 << 10


class StoreFolder(Folder):
    """Objects under one prefix of a bucket."""

    def __init__(self, path: str):
        super().__init__(path.rstrip("/"))
        self.store, self._prefix = open_store(path)

    def at(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Above WHOLE_BYTES in parts, which no store puts on a condition: such a name must be the caller's alone."""
        data = bytes(data)  # Arrow's buffers are none to obstore
        if len(data) <= WHOLE_BYTES:
            return self.store.create(self.key(name), data)
        if self.exists(name):
            return False
        self.put(name, data)
        return True

    def put(self, name: str, data: bytes) -> None:
        self.store.put(self.key(name), bytes(data))

    def append(self, name: str, line: bytes) -> None:
        """Two who append at once both find their lines: each rewrites only what it has read."""
        while True:
            segments = self._segments(name)
            try:
                last, data = self.store.read(segments[-1]) if segments else (None, b"")
            except FileNotFoundError:  # removed meanwhile
                continue
            if last is None or len(data) + len(line) >= SEGMENT_BYTES:
                done = self.store.create(self._segment(name, len(segments) + 1), line + b"\n")
            else:
                done = self.store.replace(last.key, data + line + b"\n", last)
            if done:
                return

    def log(self, name: str) -> bytes:
        return b"".join(self.store.get(key) for key in self._segments(name))

    def get(self, name: str) -> bytes:
        return self.store.get(self.key(name))

    def exists(self, name: str) -> bool:
        return self.store.find(self.key(name)) is not None

    def list(self, folder: str = "") -> Sequence[str]:
        return list(self.versions(folder))

    def versions(self, folder: str = "") -> Mapping[str, str]:
        where = self.key(folder)
        return {
            self._name(found.key): f"{found.size}-{found.tag}-{found.version}-{found.modified.isoformat()}"
            for found in self.store.inside(where)[0]
            if found.key != where
        }

    def partials(self, folder: str = "") -> Sequence[str]:
        """None ever: what a dead process left of an upload in parts is no object."""
        return []

    def entries(self, folder: str = "") -> Sequence[str]:
        where = self.key(folder)
        objects, folders = self.store.inside(where)
        names = [found.key for found in objects if found.key != where] + [f"{key}/" for key in folders]
        return sorted(name[len(where) + 1 if where else 0 :] for name in names)

    def is_free(self) -> bool:
        return self.store.is_empty(self.key(""))

    def is_file(self) -> bool:
        """Never: an object may have the name of a folder."""
        return False

    def delete(self, name: str) -> None:
        self.store.delete(self.key(name))

    def dataset(self, names: Sequence[str], schema: pa.Schema, fmt: str) -> ds.Dataset:
        import pyarrow.dataset as ds

        from dgbatch.runner.storage.store_arrow import arrow_filesystem

        keys = [self.key(name) for name in names]
        return ds.dataset(keys, schema=schema, format=fmt, filesystem=arrow_filesystem(self.store))

    def key(self, name: str) -> str:
        """Of the object with this name in the bucket."""
        return "/".join(part for part in (self._prefix, name) if part)

    def _name(self, key: str) -> str:
        return key[len(self._prefix) + 1 :] if self._prefix else key

    def _segment(self, name: str, number: int) -> str:
        return self.key(name if number == 1 else f"{name}.{number:06d}")

    def _segments(self, name: str) -> Sequence[str]:
        """The keys of a log, in order."""
        first = self.key(name)
        keys = [found.key for found in self.store.inside(first.rpartition("/")[0])[0]]
        return [key for key in keys if key == first or key.startswith(f"{first}.")]
