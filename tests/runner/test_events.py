from __future__ import annotations

import json
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.runner.events import event_lines, read_events

VALUES = st.text() | st.integers() | st.booleans() | st.none() | st.lists(st.text())
FIELDS = st.dictionaries(st.text().filter(lambda name: name not in ("at", "kind")), VALUES)


def as_it_is(text: str) -> str:
    return text


@given(st.lists(FIELDS))
def test_events_come_back_in_their_order(every: list[dict]) -> None:
    back = read_events(event_lines("worker_stats", every, as_it_is))
    assert [{name: value for name, value in event.items() if name != "at"} for event in back] == [
        {"kind": "worker_stats", **fields} for fields in every
    ]


def test_event_says_when_it_was_in_utc() -> None:
    (event,) = read_events(event_lines("stopping", [{}], as_it_is))
    assert datetime.fromisoformat(event["at"].replace("Z", "+00:00")).utcoffset().total_seconds() == 0  # type: ignore[union-attr]


def test_no_events_are_no_lines() -> None:
    assert event_lines("worker_stats", [], as_it_is) == b""


def test_secrets_are_hidden_in_every_text_of_an_event() -> None:
    lines = event_lines(
        "failed", [{"reason": "key hunter2 refused", "code": 4}], lambda text: text.replace("hunter2", "***")
    )
    assert json.loads(lines)["reason"] == "key *** refused"
    assert b"hunter2" not in lines


def test_field_of_an_event_never_passes_for_its_time() -> None:
    with pytest.raises(AssertionError, match="the time of an event"):
        event_lines("failed", [{"at": "noon"}], as_it_is)


@given(st.lists(FIELDS, min_size=1), st.integers(min_value=1))
def test_line_that_a_crash_cut_short_is_left_out_and_the_others_are_not(every: list[dict], cut: int) -> None:
    lines = event_lines("worker_stats", every, as_it_is)
    last = lines.rsplit(b"\n", 1)[-1]
    whole = read_events(lines)
    assert read_events(lines[: len(lines) - 1 - cut % (len(last) - 1)] + b"\n") == whole[:-1]
