"""A GPU that is not there: enough of torch.cuda to see in which order a measurement asks for what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

GPU = torch.device("cuda", 0)


class FakeGpu:
    """`said` is what was asked of it, in order. Work of the tests adds to it too; each word takes a millisecond."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.said: list[str] = []
        self.asking = "default"
        gpu = self

        class Event:
            def __init__(self, enable_timing: bool):
                assert enable_timing
                self.at = -1

            def record(self) -> None:
                self.at = gpu.words
                gpu.said.append("event")

            def synchronize(self) -> None:
                gpu.said.append("wait")

            def elapsed_time(self, end: Event) -> float:
                assert "wait" in gpu.said[-1:], "nobody waited for the device"
                return float(end.at - self.at)

        class CUDAGraph:
            def replay(self) -> None:
                gpu.said.append("replay")

        @contextmanager
        def graph(made: CUDAGraph) -> Iterator[None]:
            gpu.said.append("capture")
            yield
            gpu.said.append("captured")

        def set_sync_debug_mode(mode: str) -> None:
            gpu.asking = mode

        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(torch.cuda, "CUDAGraph", CUDAGraph)
        patch.setattr(torch.cuda, "graph", graph)
        patch.setattr(torch.cuda, "synchronize", lambda device=None: self.said.append("wait"))
        patch.setattr(torch.cuda, "set_sync_debug_mode", set_sync_debug_mode)

    @property
    def words(self) -> int:
        """Of work, not of measuring it."""
        return sum(word not in ("event", "wait", "capture", "captured") for word in self.said)

    def work(self) -> None:
        self.said.append("work")

    def ask(self) -> None:
        """Work that reads a value of the device."""
        if self.asking == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        self.said.append("ask")
