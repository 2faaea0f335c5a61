"""Counts of values -> few bars of a round width, and the numbers that people ask of a distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import ceil, floor, log10

MOST_BARS = 40
FAR_OUT = 0.995  # share of the values that is shown as it is, where a long tail would flatten all the rest


@dataclass(frozen=True, slots=True)
class Distribution:
    """Bar i counts what lies between edges[i] and edges[i + 1]; the last one all from its left edge on."""

    edges: tuple[float, ...]  # one more than bars
    bars: tuple[int, ...]
    labels: tuple[str, ...]  # what each bar counts, for people
    mean: float
    median: float | None  # None where only buckets are known
    p95: float | None
    most: float | None
    whole: bool = False  # all values are whole numbers

    @property
    def total(self) -> int:
        """Values."""
        return sum(self.bars)

    @property
    def even(self) -> bool:
        """Whether all bars are equally wide, so that they may stand on an axis of numbers."""
        return self.median is not None


def distribution(counts: Mapping[float, int], most_bars: int = MOST_BARS) -> Distribution | None:
    """Even bars over {value: how often}, of values from 0 on; None when there are none."""
    values = sorted(value for value, often in counts.items() if often)
    if not values:
        return None
    often = [counts[value] for value in values]
    below = list(accumulate(often))
    total, least, most = below[-1], values[0], values[-1]

    def quantile(share: float) -> float:
        return next(value for value, so_far in zip(values, below, strict=True) if so_far >= share * total)

    far = quantile(FAR_OUT)
    shown = far if most - least > 2 * (far - least) > 0 else most
    whole = all(value == int(value) for value in values)
    width = round_width((shown - least) / most_bars, whole)
    first = floor(least / width)
    count = floor(shown / width) - first + 1
    bars = [0] * count
    for value, times in zip(values, often, strict=True):
        bars[min(floor(value / width) - first, count - 1)] += times
    edges = [_tidy((first + index) * width) for index in range(count + 1)]
    labels = [_between(left, right, whole) for left, right in pairwise(edges)]
    if most >= edges[-1]:
        labels[-1] = f"{edges[-2]:,.6g} and more"
    mean = sum(value * times for value, times in zip(values, often, strict=True)) / total
    return Distribution(tuple(edges), tuple(bars), tuple(labels), mean, quantile(0.5), quantile(0.95), most, whole)


def of_buckets(bounds: Sequence[float], counts: Sequence[int], total: float) -> Distribution | None:
    """Of counts by upper bound, the last of them above all bounds; total: the sum of the values."""
    if not any(counts):
        return None
    filled = [index for index, count in enumerate(counts) if count]
    shown = range(filled[0], filled[-1] + 1)
    edges = [0.0, *bounds, float("inf")]
    labels = [f"{edges[i]:g} to {edges[i + 1]:g}" if i < len(bounds) else f"above {edges[i]:g}" for i in shown]
    return Distribution(
        edges=tuple(edges[shown.start : shown.stop + 1]),
        bars=tuple(counts[shown.start : shown.stop]),
        labels=tuple(labels),
        mean=total / sum(counts),
        median=None,
        p95=None,
        most=None,
    )


def round_width(least: float, whole: bool = False) -> float:
    """The smallest of ..., 0.5, 1, 2, 5, 10, 20, ... that is not below; of whole numbers at least 1."""
    if whole and least <= 1:
        return 1.0
    if least <= 0:
        return 0.1
    scale = 10.0 ** floor(log10(least))
    return _tidy(next(step * scale for step in (1, 2, 5, 10) if step * scale >= least * (1 - 1e-9)))


def parts(total: float, width: float) -> int:
    """How many of this width cover the whole."""
    return max(1, ceil(total / width - 1e-9))


def _between(left: float, right: float, whole: bool) -> str:
    if whole:
        return f"{left:,.0f}" if right - left == 1 else f"{left:,.0f} to {right - 1:,.0f}"
    return f"{left:,.4g} to {right:,.4g}"


def _tidy(value: float) -> float:
    """Without the last bits that make 0.30000000000000004."""
    return float(f"{value:.12g}")
