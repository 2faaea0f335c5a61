"""Pages put to a Pushgateway now and then, and at the end: for jobs that are over before anybody has scraped them."""

from __future__ import annotations

import base64
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from dgbatch.runner.metrics import CONTENT_TYPE

EVERY_S = 15.0
ANSWER_S = 5.0  # what a push may take


class Pushes:
    """Replaces the group of one job: what a page lacks is gone from the gateway too. Failures are kept, not raised."""

    def __init__(self, url: str, job: str, page: Callable[[], bytes], every_s: float = EVERY_S):
        """url: http://gateway:9091, with user:password@ where it asks for one."""
        self._url, self._headers = _endpoint(url, job)
        self._page, self._every_s = page, every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._push_on, name="push", daemon=True)
        self._complaint, self._was_well = "", True

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Push the last page and return."""
        self._over.set()
        self._thread.join(ANSWER_S)
        self._push()

    def complaint(self) -> str:
        """What went wrong, said once for each time that it began to."""
        told, self._complaint = self._complaint, ""
        return told

    def _push_on(self) -> None:
        while True:
            self._push()
            if self._over.wait(self._every_s):
                return

    def _push(self) -> None:
        try:
            request = urllib.request.Request(self._url, self._page(), self._headers, method="PUT")
            with urllib.request.urlopen(request, timeout=ANSWER_S):
                self._was_well = True
        except urllib.error.HTTPError as error:
            said = _said(error)
            self._fail(f"{error.code} {error.reason}{f': {said}' if said else ''}")
        except (OSError, ValueError, HTTPException) as error:  # away, not found, no answer, not HTTP
            self._fail(str(getattr(error, "reason", error)) or repr(error))

    def _fail(self, why: str) -> None:
        if self._was_well:
            self._complaint = f"metrics.push: {self._url}: {why}. The job goes on; the metrics are not there."
        self._was_well = False


def _said(error: urllib.error.HTTPError) -> str:
    """What a gateway says of a page that it refuses; nothing where that does not come."""
    try:
        return error.read(200).decode(errors="replace").strip().partition("\n")[0]
    except (OSError, HTTPException):
        return ""


def _endpoint(url: str, job: str) -> tuple[str, dict[str, str]]:
    """Where to put a page, without the password that goes into a header."""
    parts = urlsplit(url)
    where = parts.netloc.rpartition("@")[2]
    headers = {"Content-Type": CONTENT_TYPE}
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    path = f"{parts.path.rstrip('/')}/metrics/job/{quote(job, safe='')}"
    return urlunsplit((parts.scheme, where, path, "", "")), headers
