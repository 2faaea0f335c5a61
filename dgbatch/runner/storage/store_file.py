"""An object as a file to read from: seek and read, nothing held in memory but what is asked for."""

from __future__ import annotations

import io

from dgbatch.runner.storage.store import Found, Store


class StoreFile(io.RawIOBase):
    """Each read is one request of just these bytes."""

    def __init__(self, store: Store, found: Found):
        self._store, self._found, self._position = store, found, 0

    def size(self) -> int:
        return self._found.size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._found.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._found.size - self._position)
        length = left if size is None or size < 0 else min(size, left)
        data = self._store.get_range(self._found.key, self._position, length)
        self._position += length
        return data

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
