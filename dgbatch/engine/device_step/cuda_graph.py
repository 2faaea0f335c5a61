"""Steps as CUDA graphs, one for each count of tiles; on a CPU a step simply runs."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Graphs:
    """Runs a step of `count` tiles. It must read and write the same memory each time and never ask the device."""

    def __init__(self, step: Callable[[int], None], device: torch.device):
        self._step = step
        self._device = device
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        if device.type == "cuda":
            with torch.cuda.device(device):
                # Graphs run one after the other and leave nothing in it, so all of them share one piece of memory.
                self._pool = torch.cuda.graph_pool_handle()
                self._side = torch.cuda.Stream(device)

    def run(self, count: int) -> None:
        """The first step of a count is launched kernel by kernel, which compiles them; then it is captured."""
        if self._device.type != "cuda":
            self._step(count)
            return
        with torch.cuda.device(self._device):
            if count in self._graphs:
                self._graphs[count].replay()
                return
            # torch wants kernels to have run before they are captured, and not on the default stream. This is the very
            # step that is due: a step more would move every canvas on by one.
            current = torch.cuda.current_stream()
            self._side.wait_stream(current)
            with torch.cuda.stream(self._side):
                self._step(count)
            current.wait_stream(self._side)
            graph = torch.cuda.CUDAGraph()
            # Capturing runs nothing. Other threads may ask the device what they like meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local"):
                self._step(count)
            self._graphs[count] = graph
