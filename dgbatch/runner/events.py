"""Lines of events.jsonl: what happened in a run and when, for people. Nothing is ever decided by them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dgbatch.runner.run_info import utc_now


def event_lines(kind: str, every: Iterable[Mapping[str, Any]], hide: Callable[[str], str]) -> bytes:
    """Events of one kind, a JSON object a line, without a newline at the end; empty for none.

    hide: takes the job's secrets out of a text.
    """
    lines = []
    for fields in every:
        assert "at" not in fields, "the time of an event"
        told = {name: hide(value) if isinstance(value, str) else value for name, value in fields.items()}
        lines.append(json.dumps({"at": utc_now(), "kind": kind, **told}, default=str).encode())
    return b"\n".join(lines)


def read_events(lines: bytes) -> list[dict[str, Any]]:
    """What `event_lines` made, in the same order; a line that a crash cut short is left out."""
    found = []
    for line in lines.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
