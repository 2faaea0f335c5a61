"""Seconds of an engine by what its device did, or waited for: every second of its life is in one phase.

A step is `launching` and then `deciding`; what the host does in between (text in, text out), `of` is told. A GPU is at
work meanwhile, so of that only the time counts in which it had nothing left to do; events in its stream say how long it
took. A CPU does one after the other, and the clock says it all.

Where the host runs ahead (device_step/), steps overlap: the first one `begins` and each that is read is `done`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dgbatch.records import PHASES


class Phases:
    """Owns the seconds of one engine, by phase."""

    def __init__(self, device: torch.device):
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._events = [StreamEvent(device) for _ in range(4)] if device.type == "cuda" else []
        self._between: dict[str, float] | None = None  # of the host, while a step is with the device
        self._marks = [0.0] * 4
        self._prefill_ratio = 0.0

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        """The host does something, or waits."""
        start = time.perf_counter()
        try:
            yield
        finally:
            kept = self.seconds if self._between is None else self._between
            kept[phase] = kept.get(phase, 0.0) + time.perf_counter() - start

    @contextmanager
    def launching(self, prefill_ratio: float) -> Iterator[None]:
        """The passes of a step are handed to the device. prefill_ratio: of their rows, those that encode clean text."""
        self._prefill_ratio = prefill_ratio
        self._mark(0)
        yield
        self._mark(1)
        self._between = {}

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """The host waits for what the step decides."""
        self._mark(2)
        yield
        self._mark(3)
        self._count()

    def begins(self) -> None:
        """A step goes to the device, which is at work from now on, if it was not already."""
        if self._between is None:
            self._between = {}
            self._marks[0] = time.perf_counter()

    def done(self, prefill_ratio: float, idle_s: float | None, more: bool) -> None:
        """A step has been read. All since the last one is the device's, but for what the host did while it was idle.

        prefill_ratio: of its rows; idle_s: of the device before this step, None where it never works beside the host;
        more: whether another step is with the device. Its sampling is a part of the step's one graph: no seam to time.
        """
        now = time.perf_counter()
        wall_s, self._marks[0] = now - self._marks[0], now
        between, self._between = self._between or {}, {} if more else None
        host_s = sum(between.values())
        exposed_s = host_s if idle_s is None else min(host_s, idle_s)
        for phase, seconds in between.items():
            self.seconds[phase] += seconds * (exposed_s / host_s if host_s else 1.0)
        self.seconds["prefill"] += (wall_s - exposed_s) * prefill_ratio
        self.seconds["denoise"] += (wall_s - exposed_s) * (1 - prefill_ratio)

    def stops(self) -> None:
        """Nobody reads the steps that are still with the device."""
        self._between = None

    def _count(self) -> None:
        launch_s, host_s, wait_s = (self._marks[i + 1] - self._marks[i] for i in range(3))
        between, self._between = self._between or {}, None
        exposed_s, sample_s = host_s, wait_s
        if self._events:
            self._events[3].synchronize()
            forward_s, sample_s = (self._events[i].elapsed_time(self._events[i + 1]) / 1e3 for i in (0, 2))
            exposed_s = min(host_s, max(0.0, launch_s + host_s - forward_s))
            sample_s = min(wait_s, sample_s)
        share = exposed_s / host_s if host_s else 1.0
        for phase, seconds in between.items():
            self.seconds[phase] += seconds * share
        forward_s = launch_s + host_s + wait_s - sum(between.values()) * share - sample_s
        self.seconds["prefill"] += forward_s * self._prefill_ratio
        self.seconds["denoise"] += forward_s * (1 - self._prefill_ratio)
        self.seconds["sample"] += sample_s

    def _mark(self, number: int) -> None:
        self._marks[number] = time.perf_counter()
        if self._events:
            self._events[number].record()


class StreamEvent:
    """A moment in the stream of a GPU: when the work that it has been given by then is done."""

    def __init__(self, device: torch.device):
        self._device = device
        self._event = torch.cuda.Event(enable_timing=True)

    def record(self) -> None:
        self._event.record(torch.cuda.current_stream(self._device))

    def synchronize(self) -> None:
        self._event.synchronize()

    def elapsed_time(self, later: StreamEvent) -> float:
        """Milliseconds."""
        return self._event.elapsed_time(later._event)
