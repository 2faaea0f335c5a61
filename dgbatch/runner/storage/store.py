"""One bucket of an object store: S3, GCS or Azure Blob. With store_connection.py, the home of obstore.

Every request goes through `Store._try`, the one place that tries again: with growing pauses, for RETRY_S at most. A
conditional put is tried by us alone, never inside obstore, so that we know when an answer may have been lost. What
obstore says about a failed request holds URLs and answers of servers, keys and signatures among them; none of it is
passed on but the status and the store's own code for it.
"""

from __future__ import annotations

import errno
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

from dgbatch.errors import StoreFailed
from dgbatch.runner.storage.store_connection import ENVIRONMENT, REQUEST_S, connect, exceptions, shown_bucket
from dgbatch.runner.storage.store_uri import StoreUri, parse

RETRY_S = 60.0  # how long one request is tried again
AWAY_S = 2.0  # the same once nobody had an answer for RETRY_S, until one comes: a job should end, not wait on and on
PAUSE_S, MOST_PAUSE_S = 0.1, 5.0
PART_BYTES = 8 << 20  # of an upload in parts
WHOLE_BYTES = 64 << 20  # what goes up in one request at most
NO_BUCKET = re.compile("NoSuchBucket|ContainerNotFound|specified bucket does not exist")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """What a store knows of an object without its bytes."""

    key: str
    size: int
    tag: str  # another one for other bytes
    version: str  # of GCS, whose condition it is; else empty
    modified: datetime  # by the store's clock


class Store:
    """Objects of one bucket by their keys. Raises FileNotFoundError, and StoreFailed for what did not get better."""

    def __init__(self, uri: StoreUri):
        self.uri = uri
        self._plain = connect(uri, {"max_retries": 0})
        # Of an upload in parts or a listing of many pages one part is repeated, not all of them.
        self._patient = connect(uri, {"max_retries": 6, "retry_timeout": timedelta(seconds=RETRY_S / 2)})
        self._away_at: float | None = None  # when it counts as away, while it answers no thread

    def create(self, key: str, data: bytes) -> bool:
        """Put an object where there is none: If-None-Match, or what the store calls it. False when the key is taken.

        When the answer to an earlier try was lost, the object that is there may be ours: the same bytes are.
        """
        doubtful = False

        def put() -> bool:
            nonlocal doubtful
            try:
                _obstore().put(self._plain, key, data, mode="create", use_multipart=False)
            except exceptions().AlreadyExistsError:
                if self.find(key) is None:  # S3's conflict of two puts at once: neither may have won
                    raise _Unsettled from None
                return doubtful and self.get(key) == data
            except exceptions().GenericError:
                doubtful = True
                raise
            return True

        return self._try(key, put)

    def replace(self, key: str, data: bytes, found: Found) -> bool:
        """Put an object in place of the one that was found: If-Match. False when that one is not there any more."""
        mode = {"e_tag": found.tag, "version": found.version} if found.version else {"e_tag": found.tag}
        doubtful = False

        def put() -> bool:
            nonlocal doubtful
            try:
                _obstore().put(self._plain, key, data, mode=mode, use_multipart=False)
            except (exceptions().PreconditionError, exceptions().AlreadyExistsError, FileNotFoundError) as error:
                _refuse_no_bucket(error, self)
                return doubtful and self.find(key) is not None and self.get(key) == data
            except exceptions().GenericError:
                doubtful = True
                raise
            return True

        return self._try(key, put)

    def put(self, key: str, data: bytes) -> None:
        """Put an object, whatever is there; a large one in parts, of which nothing is seen until the last is there."""
        if len(data) > WHOLE_BYTES:
            self._try(key, lambda: _obstore().put(self._patient, key, data, use_multipart=True, chunk_size=PART_BYTES))
        else:
            self._try(key, lambda: _obstore().put(self._plain, key, data, use_multipart=False))

    def get(self, key: str) -> bytes:
        """All bytes of an object; never fewer."""
        return self.read(key)[1]

    def read(self, key: str) -> tuple[Found, bytes]:
        """An object as it is at one moment: what the store knows of it, and its bytes."""

        def read() -> tuple[Found, bytes]:
            answer = _obstore().get(self._plain, key)
            found, data = _found({**answer.meta, "path": key}), bytes(answer.bytes())
            if len(data) != found.size:
                raise _Short(len(data), found.size)
            return found, data

        return self._try(key, read)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """These bytes of an object; never fewer. They must lie inside it."""

        def get() -> bytes:
            data = bytes(_obstore().get_range(self._plain, key, start=start, length=length))
            if len(data) != length:
                raise _Short(len(data), length)
            return data

        return self._try(key, get) if length else b""

    def find(self, key: str) -> Found | None:
        """The object under this key; None without one."""
        try:
            return _found(self._try(key, lambda: _obstore().head(self._plain, key)))
        except FileNotFoundError:
            return None

    def below(self, prefix: str) -> list[Found]:
        """Every object below this folder, sorted by key."""
        pages = self._try(prefix, lambda: [list(page) for page in _obstore().list(self._pages(), prefix or None)])
        return sorted((_found(each) for page in pages for each in page), key=lambda found: found.key)

    def is_empty(self, prefix: str) -> bool:
        """Whether there is no object below this folder; asks for one page. Some stores keep folders with nothing in."""
        return self._try(prefix, lambda: not any(len(page) for page in _obstore().list(self._pages(), prefix or None)))

    def inside(self, folder: str) -> tuple[list[Found], list[str]]:
        """The objects directly in this folder, and the keys of the folders in it; both sorted."""
        answer = self._try(folder, lambda: _obstore().list_with_delimiter(self._pages(), folder or None))
        found = sorted((_found(each) for each in answer["objects"]), key=lambda found: found.key)
        return found, sorted(str(prefix).rstrip("/") for prefix in answer["common_prefixes"])

    def delete(self, key: str) -> None:
        """No object under this key any more; it may be gone already."""
        try:
            self._try(key, lambda: _obstore().delete(self._plain, key))
        except FileNotFoundError:
            return

    def _pages(self) -> Any:
        return self._plain if self._is_away else self._patient

    @property
    def _is_away(self) -> bool:
        away_at = self._away_at  # other threads change it
        return away_at is not None and time.monotonic() >= away_at

    def _try(self, key: str, request: Callable[[], T]) -> T:
        """Its answer, tried again for RETRY_S, or until the store has answered no thread for so long.

        Raises FileNotFoundError for no such object, StoreFailed for what trying does not mend.
        """
        begun = time.monotonic()
        for pause in pauses(AWAY_S if self._is_away else RETRY_S):
            asked = time.monotonic()
            try:
                answer = request()
                self._away_at = None
                return answer
            except FileNotFoundError as error:
                self._away_at = None
                _refuse_no_bucket(error, self)
                raise FileNotFoundError(errno.ENOENT, "no such object", self.shown(key)) from None
            except (exceptions().BaseError, _Unsettled, OSError) as error:
                if isinstance(error, StoreFailed):
                    raise
                said, is_final = _reason(error)
                if is_final:
                    self._away_at = None
                    raise StoreFailed(errno.EACCES, f"{self.shown(key)}: {said}") from None
                now, away_at = time.monotonic(), self._away_at
                if away_at is None:
                    self._away_at = away_at = asked + RETRY_S
                if pause is None or now >= max(away_at, begun + AWAY_S):
                    self._away_at = min(away_at, now)
                    raise StoreFailed(errno.EIO, f"{self.shown(key)}: {said}") from None
                time.sleep(pause)
        raise AssertionError("the last pause is None")

    def shown(self, key: str = "") -> str:
        """A key as people would write it."""
        return f"{shown_bucket(self.uri)}/{key}".rstrip("/")


def open_store(uri: str) -> tuple[Store, str]:
    """The bucket that a URI lies in, and the key in it. Connects to nothing yet."""
    place = parse(uri)
    environment = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith(ENVIRONMENT)))
    return _store(StoreUri(*place.store, ""), environment), place.key


@lru_cache(maxsize=16)
def _store(uri: StoreUri, environment: tuple[tuple[str, str], ...]) -> Store:
    """A connection is kept for as long as the variables that made it stay as they are."""
    return Store(uri)


class _Unsettled(Exception):
    """Neither done nor refused: to be tried again."""


class _Short(_Unsettled):
    """An answer that ended before its end."""

    def __init__(self, had: int, due: int):
        super().__init__(f"the answer broke off after {had:,} of {due:,} bytes")


def pauses(limit_s: float) -> Iterator[float | None]:
    """What to wait after each failed try; None after the last."""
    end, pause = time.monotonic() + limit_s, PAUSE_S
    while time.monotonic() + pause < end:
        yield pause * random.uniform(0.5, 1.0)  # many workers should not come back all at once
        pause = min(pause * 2, MOST_PAUSE_S)
    yield None


def _reason(error: Exception) -> tuple[str, bool]:
    """What to tell of a failed request, and whether trying again is of no use."""
    text = str(error)
    if isinstance(error, _Unsettled):
        return text or "two writers were in each other's way", False
    status = re.search(r"status code: (\d{3})", text)
    code = re.search(r"<Code>(\w{1,60})</Code>", text)
    if status is not None or isinstance(error, (exceptions().PermissionDeniedError, exceptions().UnauthenticatedError)):
        number = int(status[1]) if status else 403
        if NO_BUCKET.search(text):
            return "no such bucket. Make it first, or name another", True
        said = f"the store answered {number}" + (f" {code[1]}" if code else "")
        if "//169.254." in text or "//metadata.google.internal" in text:
            return "no credentials were found. Set them in the environment, see docs/object_stores.md", True
        if number in (401, 403):
            return f"{said}. Are the credentials right, and may they do this?", True
        return said, number < 500 and number not in (408, 409, 423, 425, 429)
    kind = re.search(r"kind: (Connect|Timeout)\b", text)
    if kind is not None and kind[1] == "Connect":
        return "the store cannot be reached. Is its endpoint right, and the network there?", False
    return f"no answer within {REQUEST_S:g} s" if kind is not None else "the connection broke off", False


def _refuse_no_bucket(error: Exception, store: Store) -> None:
    if NO_BUCKET.search(str(error)):
        raise StoreFailed(errno.ENOENT, f"{store.shown()}: no such bucket. Make it first, or name another") from None


def _found(meta: Any) -> Found:
    tag, version = meta["e_tag"] or "", meta["version"] or ""
    return Found(str(meta["path"]), int(meta["size"]), tag, version, meta["last_modified"])


def _obstore() -> Any:
    import obstore

    return obstore
