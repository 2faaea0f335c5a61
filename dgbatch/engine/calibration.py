"""How many canvases in flight: measured on this device with this model, when the engine starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from dgbatch.records import CurvePoint

SIZES = (1, 2, 4, 8, 16, 32, 64)
KNEE = 0.9  # of the best throughput: beyond it more canvases only make each wait longer
WARM_UP = 2  # steps: the prompts, and a first denoising step
REPEATS = 5  # the fastest counts: whoever shares the machine only ever adds
LIMIT_S = 1.0  # no larger size is tried after so long


def measure(prepare: Callable[[int], Callable[[], object]], sizes: Iterable[int]) -> list[CurvePoint]:
    """The throughput curve, until two larger sizes gained nothing. prepare(n): a function that steps n canvases."""
    curve: list[CurvePoint] = []
    start = time.perf_counter()
    for size in sizes:
        step = prepare(size)
        for _ in range(WARM_UP):
            step()
        curve.append(CurvePoint(size, min(_timed(step) for _ in range(REPEATS))))
        best = max(curve, key=lambda point: point.per_second)
        if len(curve) - curve.index(best) > 2 or time.perf_counter() - start > LIMIT_S:
            break
    return curve


def knee(curve: Iterable[CurvePoint]) -> int:
    """The fewest canvases that come close to the best throughput."""
    points = list(curve)
    best = max(point.per_second for point in points)
    return min(point.canvases for point in points if point.per_second >= KNEE * best)


def _timed(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
