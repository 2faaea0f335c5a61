"""How long work takes on a device, call by call: CUDA events on a GPU, a clock elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

WARM_UPS, TURNS = 20, 50


@dataclass(frozen=True, slots=True)
class Turns:
    """How often work is done: unmeasured first, so that clocks settle and compilers are done, then measured."""

    warm_ups: int = WARM_UPS
    measured: int = TURNS


def nothing() -> None:
    pass


def times_ms(
    work: Callable[[], object], device: torch.device, turns: Turns, before: Callable[[], object] = nothing
) -> list[float]:
    """One number per measured call. before: comes ahead of every call and is not measured."""
    for _ in range(turns.warm_ups):
        before()
        work()
    if device.type != "cuda":
        return [_by_clock(work, before) for _ in range(turns.measured)]
    # All calls are queued before the first is waited for: no call's time has the host's waiting in it.
    marks = [_between_events(work, before) for _ in range(turns.measured)]
    torch.cuda.synchronize(device)
    return [start.elapsed_time(end) for start, end in marks]


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU: tiny work in many threads waits for the slowest of them."""
    threads = torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


def _between_events(
    work: Callable[[], object], before: Callable[[], object]
) -> tuple[torch.cuda.Event, torch.cuda.Event]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before()
    start.record()
    work()
    end.record()
    return start, end


def _by_clock(work: Callable[[], object], before: Callable[[], object]) -> float:
    before()
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3
