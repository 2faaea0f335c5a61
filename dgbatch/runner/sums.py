"""What a commit record says beyond its counts: how often what happened, in histograms and by error code.

Whole numbers alone, so that records add up to the very same in whatever order they come: a duration is counted in
millionths of a second, a ratio in millionths.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import add, sub
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dgbatch.records import Completion

# Upper bounds of the buckets; what is above the last one has a bucket of its own. A record keeps the bounds it was
# written with, so they may grow finer.
BOUNDS: dict[str, tuple[float, ...]] = {
    "steps_per_canvas": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64),
    "tokens_per_forward": (0.5, 1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256),
    "row_duration_s": (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000),
}
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values fell into each bucket, and their sum."""

    counts: tuple[int, ...] = ()  # one more than there are bounds; nothing where there was no value
    millionths: int = 0

    @classmethod
    def of(cls, bounds: Sequence[float], values: Iterable[float]) -> Histogram:
        counts, millionths = [0] * (len(bounds) + 1), 0
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            millionths += round(value * MILLION)
        return cls(tuple(counts), millionths) if any(counts) else cls()

    @property
    def count(self) -> int:
        """Values."""
        return sum(self.counts)

    @property
    def sum(self) -> float:
        """Of the values."""
        return self.millionths / MILLION

    def __add__(self, other: Histogram) -> Histogram:
        if not self.counts or not other.counts:
            return self if self.counts else other
        return Histogram(tuple(map(add, self.counts, other.counts)), self.millionths + other.millionths)

    def __sub__(self, other: Histogram) -> Histogram:
        if not other.counts:
            return self
        counts = tuple(map(sub, self.counts, other.counts))
        return Histogram(counts, self.millionths - other.millionths) if any(counts) else Histogram()


@dataclass(frozen=True, slots=True)
class Sums:
    """Over the rows of a record, or of many. Records of older versions have none: nothing is counted for their rows."""

    revised_tokens: int = 0  # settled as another token than the one first accepted in their place
    thinking_tokens: int = 0  # of `Commit.tokens`
    quarantined: tuple[tuple[str, int], ...] = ()  # rows by error code, in the order of the codes
    steps_per_canvas: Histogram = Histogram()
    tokens_per_forward: Histogram = Histogram()  # one value a row
    row_duration_s: Histogram = Histogram()  # one value a row: prefill and denoising, without the queue

    @classmethod
    def of(cls, done: Sequence[Completion], codes: Iterable[str] = ()) -> Sums:
        """Of completed rows, and the error codes of those that were given up on."""
        return cls(
            sum(each.revised_tokens for each in done),
            sum(each.thinking_tokens for each in done),
            tuple(sorted(Counter(codes).items())),
            Histogram.of(BOUNDS["steps_per_canvas"], (steps for each in done for steps in each.canvas_steps)),
            Histogram.of(BOUNDS["tokens_per_forward"], (each.tokens_per_step for each in done if each.denoise_steps)),
            Histogram.of(BOUNDS["row_duration_s"], (max(0.0, each.prefill_s + each.denoise_s) for each in done)),
        )

    def __bool__(self) -> bool:
        return self != NOTHING

    def __add__(self, other: Sums) -> Sums:
        if not self or not other:
            return self or other
        return Sums(
            self.revised_tokens + other.revised_tokens,
            self.thinking_tokens + other.thinking_tokens,
            _combined(self.quarantined, other.quarantined, 1),
            self.steps_per_canvas + other.steps_per_canvas,
            self.tokens_per_forward + other.tokens_per_forward,
            self.row_duration_s + other.row_duration_s,
        )

    def __sub__(self, other: Sums) -> Sums:
        if not other:
            return self
        return Sums(
            self.revised_tokens - other.revised_tokens,
            self.thinking_tokens - other.thinking_tokens,
            _combined(self.quarantined, other.quarantined, -1),
            self.steps_per_canvas - other.steps_per_canvas,
            self.tokens_per_forward - other.tokens_per_forward,
            self.row_duration_s - other.row_duration_s,
        )

    # ---- on disk

    def to_json(self) -> dict[str, Any]:
        """For a commit record, readable; nothing of what is zero."""
        body: dict[str, Any] = {"revised_tokens": self.revised_tokens, "thinking_tokens": self.thinking_tokens}
        body["quarantined"] = dict(self.quarantined)
        for name, bounds in BOUNDS.items():
            body[name] = _histogram_to_json(getattr(self, name), bounds)
        return {name: value for name, value in body.items() if value}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Sums:
        """What `to_json` made. Raises ValueError or TypeError for anything else."""
        if unknown := sorted(body.keys() - set(_NAMES)):
            raise ValueError(f"its sums have unknown keys: {', '.join(unknown)}")
        codes = tuple(sorted(dict(body.get("quarantined", {})).items()))
        histograms = [_histogram_from_json(body.get(name), bounds) for name, bounds in BOUNDS.items()]
        made = cls(body.get("revised_tokens", 0), body.get("thinking_tokens", 0), codes, *histograms)
        numbers = (made.revised_tokens, made.thinking_tokens, *(rows for _, rows in codes))
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("its sums are not whole numbers")
        return made

    def packed(self) -> str:
        """For a copy of a record among thousands: quick to read. Nothing for no sums."""
        if not self:
            return ""
        histograms = [[getattr(self, name).counts, getattr(self, name).millionths] for name in BOUNDS]
        return json.dumps([self.revised_tokens, self.thinking_tokens, self.quarantined, *histograms])

    @classmethod
    def unpacked(cls, text: str) -> Sums:
        """What `packed` made."""
        if not text:
            return NOTHING
        revised, thinking, codes, *histograms = json.loads(text)
        made = [Histogram(tuple(counts), millionths) for counts, millionths in histograms]
        return cls(revised, thinking, tuple((code, rows) for code, rows in codes), *made)


_NAMES = tuple(field.name for field in fields(Sums))
NOTHING = Sums()


def _combined(
    some: Iterable[tuple[str, int]], others: Iterable[tuple[str, int]], sign: int
) -> tuple[tuple[str, int], ...]:
    if not others:
        return tuple(some)
    counts = dict(some)
    for code, rows in others:
        counts[code] = counts.get(code, 0) + sign * rows
    return tuple(sorted((code, rows) for code, rows in counts.items() if rows))


def _histogram_to_json(histogram: Histogram, bounds: Sequence[float]) -> dict[str, Any]:
    """{"sum": 17.5, "upto": {"2": 5, "above": 1}}: the buckets that are not empty, by their upper bound."""
    names = [*(f"{bound:g}" for bound in bounds), "above"]
    counts = {name: count for name, count in zip(names, histogram.counts, strict=False) if count}
    return {"sum": histogram.sum, "upto": counts} if counts else {}


def _histogram_from_json(body: Mapping[str, Any] | None, bounds: Sequence[float]) -> Histogram:
    if not body:
        return Histogram()
    counts = [0] * (len(bounds) + 1)
    for name, count in body["upto"].items():
        if type(count) is not int or count <= 0:
            raise ValueError("a histogram of its sums holds what is no count")
        counts[len(bounds) if name == "above" else bisect_left(bounds, float(name))] += count
    if body.keys() != {"sum", "upto"} or not any(counts):
        raise ValueError("a histogram of its sums has other keys")
    return Histogram(tuple(counts), round(body["sum"] * MILLION))
