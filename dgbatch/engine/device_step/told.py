"""What a step said, on the way to the host: a buffer, and the moment from which it may be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dgbatch.engine.device_step.state import State, said_parts
from dgbatch.engine.phases import StreamEvent


class Moment(Protocol):
    """A place in the device's stream."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


class Done:
    """On a CPU work is done when the call returns."""

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Saying:
    """One step's words to the host."""

    began: Moment
    ended: Moment  # the step, and the copy of what it said
    buffer: Tensor  # like State.said, where the host reads
    told: Tensor  # (S, 8) int32, part of it
    frames: Tensor  # (S, 5, R) int32, part of it

    def copy(self, said: Tensor) -> None:
        """Behind the step in the stream; nobody waits for it here."""
        self.buffer.copy_(said, non_blocking=True)
        self.ended.record()

    def wait(self) -> None:
        """From here on it may be read, until another step gets it."""
        self.ended.synchronize()

    def idle_s(self, before: Saying | None) -> float | None:
        """How long the device had nothing to do between the step before this one and this one; both are over."""
        if not isinstance(self.began, StreamEvent):
            return None  # a CPU never works beside the host
        if before is None or not isinstance(before.ended, StreamEvent):
            return 0.0
        return before.ended.elapsed_time(self.began) / 1e3


def make_saying(state: State) -> Saying:
    canvases, rows = state.slots.canvas.shape
    device = state.said.device
    # a copy into pageable memory would wait for the step
    buffer = torch.zeros(state.said.shape, dtype=torch.int32, pin_memory=device.type == "cuda")
    return Saying(moment(device), moment(device), buffer, *said_parts(buffer, canvases, rows))


def moment(device: torch.device) -> Moment:
    return StreamEvent(device) if device.type == "cuda" else Done()
