"""Pushes: to Debian's own Pushgateway, where a page takes the place of the one before; and to gateways that fail."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dgbatch.runner.metering import pushgateway as module
from dgbatch.runner.metering.pushgateway import Pushes

GATEWAY = shutil.which("prometheus-pushgateway")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if GATEWAY is None:
        pytest.skip("prometheus-pushgateway is missing: apt-get install prometheus-pushgateway")
    url = f"http://127.0.0.1:{free_port()}"
    log = (tmp_path_factory.mktemp("gateway") / "log").open("w")
    # Debian's keeps what it was told under /var/lib unless it is told not to.
    command = [GATEWAY, f"--web.listen-address={url.removeprefix('http://')}", "--persistence.file="]
    process = subprocess.Popen(command, stderr=log, stdout=log)
    try:
        deadline = time.monotonic() + 30
        while not is_up(url):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(10)
        log.close()


def is_up(url: str) -> bool:
    try:
        return bool(seen(url))
    except OSError:
        return False


def seen(url: str) -> list[str]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
        return [line for line in answer.read().decode().splitlines() if not line.startswith("#")]


def pushed_by(pushes: Pushes) -> str:
    pushes.start()
    pushes.stop()
    return pushes.complaint()


def test_the_last_page_takes_the_place_of_the_first(gateway: str) -> None:
    kind = b"# TYPE dgbatch_rows_total counter\n"
    pages = [kind + b'dgbatch_rows_total{job="a job",worker="w0"} 1\n', kind + b'dgbatch_rows_total{job="a job"} 7\n']
    pushes = Pushes(f"{gateway}/", "a job", lambda: pages[0])
    pushes.start()
    deadline = time.monotonic() + 30
    while 'dgbatch_rows_total{instance="",job="a job",worker="w0"} 1' not in seen(gateway):
        assert time.monotonic() < deadline, pushes.complaint()
        time.sleep(0.02)
    del pages[0]
    pushes.stop()
    assert pushes.complaint() == ""
    assert [line for line in seen(gateway) if line.startswith("dgbatch_")] == [
        'dgbatch_rows_total{instance="",job="a job"} 7'
    ]


def test_what_the_gateway_refuses_is_told_with_its_reason(gateway: str) -> None:
    complaint = pushed_by(Pushes(gateway, "bad", lambda: b"no metric at all\n"))
    assert complaint.startswith(f"metrics.push: {gateway}/metrics/job/bad: 400 Bad Request: text format parsing error")
    assert complaint.endswith(". The job goes on; the metrics are not there.")


def test_a_gateway_that_is_away_is_told_once_and_again_after_it_was_well() -> None:
    port = free_port()
    pushes = Pushes(f"http://127.0.0.1:{port}", "job", lambda: b"x 1\n", every_s=0.01)
    pushes._push()
    assert "Connection refused" in pushes.complaint()
    pushes._push()
    assert pushes.complaint() == ""
    pushes._was_well = True
    pushes._push()
    assert "Connection refused" in pushes.complaint()


class Listener(BaseHTTPRequestHandler):
    heard: dict[str, str]

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).heard = {"path": self.path, "body": body.decode(), **dict(self.headers.items())}
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_password_goes_into_a_header_and_is_in_no_complaint(tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    url = f"http://me:s%40cret@127.0.0.1:{server.server_port}/prefix/"
    pushes = Pushes(url, "demo", lambda: b"x 1\n")
    pushes._push()
    thread.join()
    server.server_close()
    assert (Listener.heard["path"], Listener.heard["body"]) == ("/prefix/metrics/job/demo", "x 1\n")
    assert base64.b64decode(Listener.heard["Authorization"].removeprefix("Basic ")) == b"me:s@cret"
    pushes._push()
    complaint = pushes.complaint()
    assert "refused" in complaint and "cret" not in complaint and "me:" not in complaint


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], str]]:
    """The URL of a server that says just this to each who connects, and then nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as kept:

        def serve(answer: bytes) -> str:
            def speak() -> None:
                with suppress(OSError):
                    while True:
                        sock, _ = server.accept()
                        kept.callback(sock.close)
                        sock.sendall(answer)

            threading.Thread(target=speak, daemon=True).start()
            return f"http://127.0.0.1:{server.getsockname()[1]}"

        yield serve
        server.shutdown(socket.SHUT_RDWR)  # wakes `accept`


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0-OpenSSH_9.2"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 100\r\n\r\nhalf", "500 Oops"),
        (b"", "timed out"),
    ],
    ids=["not HTTP", "half of an answer", "nothing"],
)
def test_whatever_answers_is_told_and_nothing_is_raised(
    answering: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch, answer: bytes, says: str
) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.2)
    complaint = pushed_by(Pushes(answering(answer), "job", lambda: b"x 1\n"))
    assert says in complaint and complaint.endswith("The job goes on; the metrics are not there.")


def test_a_variable_that_is_not_set_where_a_run_is_retried_is_told() -> None:
    assert "unknown url type" in pushed_by(Pushes("${GATEWAY}", "job", lambda: b"x 1\n"))
