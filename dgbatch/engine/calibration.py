"""How many canvases in flight: measured on this device with this model, when the engine starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from dgbatch.engine.device_step.ahead import AheadLoop
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.plain_loop import PlainLoop
from dgbatch.engine.scheduler import Scheduler
from dgbatch.engine.sequence import Sequence, chunks_of
from dgbatch.records import CurvePoint, Prompt, Settings

SIZES = (1, 2, 4, 8, 16, 32, 64)
KNEE = 0.9  # of the best throughput: beyond it more canvases only make each wait longer
WARM_UP = 2  # steps
MANY = 64  # steps of a made-up canvas, which never settles: more than are measured
REPEATS = 5  # the fastest counts: whoever shares the machine only ever adds
LIMIT_S = 1.0  # no larger size is tried after so long
CUDA_LIMIT_S = 60.0  # there kernels are compiled and graphs captured meanwhile


def measure(
    prepare: Callable[[int], Callable[[], object]], sizes: Iterable[int], limit_s: float = LIMIT_S
) -> list[CurvePoint]:
    """The throughput curve, until two larger sizes gained nothing. prepare(n): a function that steps n canvases."""
    curve: list[CurvePoint] = []
    start = time.perf_counter()
    for size in sizes:
        curve.append(CurvePoint(size, _best(prepare(size))))
        best = max(curve, key=lambda point: point.per_second)
        if len(curve) - curve.index(best) > 2 or time.perf_counter() - start > limit_s:
            break
    return curve


def knee(curve: Iterable[CurvePoint]) -> int:
    """The fewest canvases that come close to the best throughput."""
    points = list(curve)
    best = max(point.per_second for point in points)
    return min(point.canvases for point in points if point.per_second >= KNEE * best)


def made_up_steps(
    loop: PlainLoop | AheadLoop, canvases: int, prefill_tiles: int, shape: ModelConfig, defaults: Settings
) -> Callable[[], None]:
    """A function that takes one denoising step of made-up canvases, one a slot, after a page of made-up prompt each."""
    length = shape.canvas_length
    scheduler = Scheduler(loop.pages, canvases, length, prefill_tiles, fold=False)
    endless = replace(defaults, max_new_tokens=length, confidence=0.0, max_denoising_steps=MANY, stop=())
    for number in range(canvases):
        text = [(number + 7 * place) % shape.vocab_size for place in range(length)]
        prompt = Prompt("", 0, (), number)
        scheduler.waiting.append(Sequence(prompt, endless, text, frozenset(), chunks_of(text, length)))
    loop.admit(scheduler.admit())

    def step() -> None:
        loop.start(scheduler)
        loop.finish()

    while any(sequence.pending for sequence in scheduler.flight):
        step()
    return step


def _best(step: Callable[[], object]) -> float:
    """Its seconds. What it steps is gone before the next size makes its own."""
    for _ in range(WARM_UP):
        step()
    return min(_timed(step) for _ in range(REPEATS))


def _timed(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
