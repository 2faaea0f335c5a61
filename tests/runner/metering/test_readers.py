"""A driver that is done waits for who reads its metrics regularly, and for nobody else."""

from __future__ import annotations

import threading
import time
import urllib.request

import pytest

from dgbatch.runner.metering.metrics_server import MetricsServer
from dgbatch.runner.metering.readers import Readers, patience


@pytest.mark.parametrize(
    ("times", "now", "waits_s"),
    [
        ([], 100.0, 0.0),
        ([98.0], 100.0, 0.0),  # once is no habit
        ([90.0, 95.0], 96.0, 6.5),  # it comes at 100, or somewhat later
        ([90.0, 95.0], 103.0, 0.0),  # it should have come at 100: it is gone
        ([30.0, 90.0], 100.0, 0.0),  # it comes at 150: nobody waits so long
        ([75.0, 90.0], 95.0, 15.0),  # at 105, and 15 s are the limit
    ],
)
def test_patience_is_for_who_comes_regularly_and_soon(times: list[float], now: float, waits_s: float) -> None:
    assert patience(times, now, limit_s=15.0) == waits_s


def test_a_page_that_was_asked_for_before_the_end_is_not_the_last_one() -> None:
    readers, now = Readers(), time.monotonic()
    for at in (now - 0.2, now - 0.1):
        readers.came(at)
    assert readers.regular
    assert not readers.wait(since=now)
    readers.came(now + 0.1)
    assert readers.wait(since=now)


def test_server_waits_for_its_reader_and_not_longer() -> None:
    pages = iter([b"going\n", b"done\n"])
    server = MetricsServer("127.0.0.1", 0)
    server.start(lambda: next(pages))
    server._server.readers.came(time.monotonic() - 8)  # with the next page a habit: 12 s are waited for it
    seen: list[bytes] = []

    def read() -> None:
        with urllib.request.urlopen(server.url, timeout=10) as answer:
            seen.append(answer.read())

    read()
    while not server.is_read:  # a page is counted after it went out
        time.sleep(0.01)
    later = threading.Timer(0.3, read)
    later.start()
    began = time.monotonic()
    server.let_read(since=began)
    assert 0.2 < time.monotonic() - began < 10
    later.join()
    server.stop()
    assert seen == [b"going\n", b"done\n"]


def test_server_that_nobody_reads_leaves_at_once() -> None:
    server = MetricsServer("127.0.0.1", 0)
    server.start(lambda: b"")
    began = time.monotonic()
    server.let_read(since=began)
    assert time.monotonic() - began < 5
    assert not server.is_read
    server.stop()
