"""How many canvases in flight: measured on this device with this model, when the engine starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from dgbatch.engine.canvases import Canvases
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.pages import Pages
from dgbatch.engine.scheduler import Scheduler
from dgbatch.engine.sequence import Sequence, chunks_of
from dgbatch.engine.steps import Steps
from dgbatch.records import CurvePoint, Prompt, Settings

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


def made_up_steps(
    pages: Pages, canvases: Canvases, steps: Steps, shape: ModelConfig, defaults: Settings
) -> Callable[[], None]:
    """A function that takes one denoising step of made-up canvases, one a slot, after a page of made-up prompt each."""
    count, length = len(canvases.tokens), shape.canvas_length
    scheduler = Scheduler(pages, count, length, count, fold=False)
    one_canvas = replace(defaults, max_new_tokens=length)
    for number in range(count):
        text = [(number + 7 * place) % shape.vocab_size for place in range(length)]
        prompt = Prompt("", 0, (), number)
        scheduler.waiting.append(Sequence(prompt, one_canvas, text, frozenset(), chunks_of(text, length)))
    canvases.lay(scheduler.admit())

    def step() -> None:
        steps.start(scheduler.plan())
        for sequence, outcome in steps.finish():
            sequence.stepped(outcome.unchanged)

    return step


def _timed(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
