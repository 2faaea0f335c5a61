from __future__ import annotations

from dataclasses import replace

import pytest

from dgbatch.runner.progress import Progress
from dgbatch.runner.terminal.plain import clock, plain_line, plural, rate
from tests.runner.test_progress import WORKING


def test_plain_line_says_in_words_what_the_picture_shows():
    line = "demo: 612/1,000 rows (61%), 1,204 tokens/s, 7.3 steps/canvas, ETA 0:17, 1 worker, 3 quarantined"
    assert plain_line(WORKING) == line
    assert plain_line(replace(WORKING, quarantined=0, note="oh")) == line.replace("3 quarantined", "oh")
    assert plain_line(Progress("finalizing", "demo", "x", note="verifying every row")) == "demo: verifying every row"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75.4, "1:15"), (7261, "2:01:01"), (None, "--:--")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_rate():
    assert [rate(None), rate(3.14159), rate(1234.5)] == ["-", "3.1", "1,234"]


def test_plural():
    assert [plural(1, "row"), plural(2000, "row")] == ["1 row", "2,000 rows"]
