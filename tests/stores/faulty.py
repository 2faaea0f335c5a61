"""A proxy in front of a store that fails a share of the requests, in ways that real stores do.

`500` and `503` answer so and do nothing; `403` repeats the signature, as S3 does. `lost` does the work and drops the
connection without an answer. `truncated` sends half of the bytes it announced. `slow` waits. The choice follows a
seed: the same requests meet the same faults.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

REFUSED = b"<Error><Code>SignatureDoesNotMatch</Code><StringToSign>%s</StringToSign></Error>"
FAULTS = ("500", "503", "lost", "truncated", "slow")


class Faulty:
    """`share` of the requests fail; `met` counts how. `choose` decides instead, by method and path."""

    def __init__(
        self,
        behind: str,
        share: float = 0.0,
        seed: int = 0,
        kinds: Sequence[str] = FAULTS,
        slow_s: float = 0.5,
        choose: Callable[[str, str], str | None] | None = None,
    ):
        self.behind = urlsplit(behind).netloc
        self.share, self.kinds, self.slow_s, self._choose = share, kinds, slow_s, choose
        self.met: Counter[str] = Counter()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self._dice, self._guard = random.Random(seed), threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def fault(self, method: str, path: str) -> str | None:
        with self._guard:
            if self._choose is not None:
                kind = self._choose(method, path)
            else:
                kind = self._dice.choice(self.kinds) if self._dice.random() < self.share else None
            if kind is not None:
                self.met[kind] += 1
            return kind

    def __enter__(self) -> Faulty:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(proxy: Faulty) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            proxy.requests.append((self.command, self.path, dict(self.headers.items())))
            fault = proxy.fault(self.command, self.path)
            if fault in ("500", "503"):
                self.answer(int(fault), b"<Error><Code>InternalError</Code></Error>", {})
                return
            if fault == "403":
                self.answer(403, REFUSED % self.headers.get("Authorization", "").encode(), {})
                return
            if fault == "slow":
                time.sleep(proxy.slow_s)
            status, headers, data = self.ask(body)
            if fault == "lost":
                self.close_connection = True
                return
            cut = fault == "truncated" and len(data) > 1 and self.command == "GET"
            self.answer(status, data[: len(data) // 2] if cut else data, headers, announced=len(data))
            self.close_connection = self.close_connection or cut

        def ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection(proxy.behind, timeout=60)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() != "connection":
                        connection.putheader(name, value)
                connection.endheaders(body)
                response = connection.getresponse()
                return response.status, dict(response.headers.items()), response.read()
            finally:
                connection.close()

        def answer(self, status: int, data: bytes, headers: dict[str, str], announced: int | None = None) -> None:
            self.send_response_only(status)
            skipped = {"content-length", "connection", "transfer-encoding"}
            for name, value in headers.items():
                if name.lower() not in skipped:
                    self.send_header(name, value)
            length = headers.get("Content-Length") or headers.get("content-length")
            is_head = self.command == "HEAD"
            self.send_header("Content-Length", str(length if is_head and length else announced or len(data)))
            self.end_headers()
            if not is_head:
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
