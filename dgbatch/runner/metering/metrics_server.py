"""GET /metrics: the page of this moment, from a thread of its own, for Prometheus."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dgbatch.errors import JobError
from dgbatch.runner.metering.readers import Readers
from dgbatch.runner.metrics import CONTENT_TYPE

PATH = "/metrics"
CLIENT_S = 10.0  # a client that says nothing for so long is left alone


class MetricsServer:
    """Listens from the moment it is made, so that a port in use is told before any work; answers once it is started."""

    def __init__(self, host: str, port: int):
        """port 0: any that is free. Raises JobError for an address that cannot be had."""
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._server = _Server(family, address)
        except (socket.gaierror, ValueError):  # UnicodeError is of the second kind: a..b
            raise JobError(
                f"metrics.host: {host!r} is no address of this machine. Give one, such as 127.0.0.1, ::1 or 0.0.0.0."
            ) from None
        except OSError as error:
            raise JobError(_refusal(host, port, error)) from None

    @property
    def url(self) -> str:
        """Where the page is, for people."""
        return f"http://{self.target}{PATH}"

    @property
    def target(self) -> str:
        """Host and port, as Prometheus takes them."""
        host, port = self._server.server_address[:2]
        name = socket.gethostname() if host in ("0.0.0.0", "::") else str(host)
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

    def start(self, page: Callable[[], bytes]) -> None:
        """Answer from now on. page: called in another thread at any moment."""
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True).start()
        self._server.page = page  # last: `stop` waits for a thread that serves it

    @property
    def is_read(self) -> bool:
        """Whether somebody comes regularly."""
        return self._server.readers.regular

    def let_read(self, since: float) -> None:
        """Wait until who comes regularly has read a page that is younger than `since`, by the monotonic clock."""
        self._server.readers.wait(since)

    def stop(self) -> None:
        if self._server.page is not None:
            self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True  # one that has just been left may be taken again, one in use may not
    page: Callable[[], bytes] | None = None

    def __init__(self, family: int, address: tuple):
        self.address_family = family
        self.readers = Readers()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # not HTTPServer's own, which asks a name server who we are
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is nobody's business."""


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_S
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "dgbatch", ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        if self.path.partition("?")[0] != PATH or self.server.page is None:
            status, kind, body = 404, "text/plain; charset=utf-8", f"The metrics are at {PATH}\n".encode()
        else:
            asked_at = time.monotonic()
            status, kind, body = 200, CONTENT_TYPE, self.server.page()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)
            if status == 200:
                self.server.readers.came(asked_at)

    def log_message(self, format: str, *args: object) -> None:
        """The terminal is for the job."""


def _refusal(host: str, port: int, error: OSError) -> str:
    reason = error.strerror or str(error)
    if port:
        return (
            f"metrics.port: {port} of {host} cannot be had: {reason}. Give another, 0 for any that is free, or null "
            "for no endpoint."
        )
    return f"metrics.host: {host} cannot be listened on: {reason}. Give an address of this machine, such as 127.0.0.1."
