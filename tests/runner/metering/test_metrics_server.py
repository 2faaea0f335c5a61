"""The endpoint: it answers at any moment, and an address that it cannot have is told before the job begins."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from dgbatch.errors import JobError
from dgbatch.runner.metering.metrics_server import MetricsServer


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    made = MetricsServer("127.0.0.1", 0)
    made.start(lambda: b"dgbatch_rows_expected 3\n")
    yield made
    made.stop()


def get(url: str, method: str = "GET") -> tuple[int, str, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def test_the_page_is_at_the_url_that_people_are_told(server: MetricsServer) -> None:
    assert server.url == f"http://{server.target}/metrics"
    assert server.target.startswith("127.0.0.1:")
    assert get(server.url) == (200, "text/plain; version=0.0.4; charset=utf-8", b"dgbatch_rows_expected 3\n")
    assert get(f"{server.url}?name[]=x")[0] == 200
    assert get(server.url, "HEAD") == (200, "text/plain; version=0.0.4; charset=utf-8", b"")


def test_another_path_says_where_the_page_is(server: MetricsServer) -> None:
    assert get(server.url.replace("/metrics", "/")) == (
        404, "text/plain; charset=utf-8", b"The metrics are at /metrics\n",
    )  # fmt: skip
    assert get(server.url, "POST")[0] == 501


def test_a_client_that_leaves_and_a_page_that_fails_stop_nobody_else(capfd: pytest.CaptureFixture[str]) -> None:
    pages = iter([b"", b"first\n"])

    def page() -> bytes:
        return next(pages) or bytes(1 // 0)

    server = MetricsServer("127.0.0.1", 0)
    server.start(page)
    host, port = server.target.rsplit(":", 1)
    socket.create_connection((host, int(port))).close()
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        get(server.url)
    assert get(server.url)[2] == b"first\n"
    server.stop()
    assert capfd.readouterr().err == ""


def test_a_port_in_use_is_told_with_what_to_do(server: MetricsServer) -> None:
    port = int(server.target.rsplit(":", 1)[1])
    with pytest.raises(JobError) as caught:
        MetricsServer("127.0.0.1", port)
    assert str(caught.value) == (
        f"metrics.port: {port} of 127.0.0.1 cannot be had: Address already in use. Give another, 0 for any that is "
        "free, or null for no endpoint."
    )


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("a..b", r"metrics\.host: 'a\.\.b' is no address of this machine"),
        ("no such host", r"metrics\.host: 'no such host' is no address of this machine"),
        ("203.0.113.7", r"metrics\.host: 203\.0\.113\.7 cannot be listened on: Cannot assign requested address"),
    ],
)
def test_a_host_that_is_not_ours_is_told(host: str, says: str) -> None:
    with pytest.raises(JobError, match=says):
        MetricsServer(host, 0)


def test_ipv6_has_its_brackets() -> None:
    try:
        server = MetricsServer("::1", 0)
    except JobError:
        pytest.skip("this machine has no IPv6")
    server.start(lambda: b"x\n")
    assert server.url.startswith("http://[::1]:")
    assert get(server.url)[2] == b"x\n"
    server.stop()


def test_one_that_listens_everywhere_is_found_by_the_name_of_its_machine() -> None:
    server = MetricsServer("0.0.0.0", 0)
    assert server.target.startswith(f"{socket.gethostname()}:")
    server.stop()


def test_a_server_that_was_never_started_stops() -> None:
    server = MetricsServer("127.0.0.1", 0)
    port = int(server.target.rpartition(":")[2])
    server.stop()
    MetricsServer("127.0.0.1", port).stop()  # its port is free again


def test_one_that_gets_no_thread_stops_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    server = MetricsServer("127.0.0.1", 0)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError):
            server.start(lambda: b"")
    stopping = threading.Thread(target=server.stop, daemon=True)
    stopping.start()
    stopping.join(10)
    assert not stopping.is_alive()
