"""How many canvases a run had in flight, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def in_flight(noted: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A line per device of what `Run.canvases` holds: the choice, and the curve that decided it."""
    for device, measured in noted.items():
        curve = ", ".join(f"{canvases}: {canvases / seconds:.0f}" for canvases, seconds in measured["curve"])
        why = f"; canvas steps a second by number: {curve}" if curve else ", as the job says"
        number = measured["in_flight"]
        yield f"{number} {'canvas' if number == 1 else 'canvases'} in each worker ({device}){why}"
