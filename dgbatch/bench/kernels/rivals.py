"""What computes an operation: our kernel, its twin, and torch.compile of the twin; each as something to call again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgbatch.bench.kernels.case import Arguments, Case
from dgbatch.engine.kernels import operations

KERNEL, TWIN, COMPILED = "kernel", "twin", "compiled"
# Several times the second-level cache of any GPU, and so long to read that the host is ahead again by then.
FLUSHED_BYTES = 512 << 20
WARM_CALLS = 3


@dataclass(frozen=True, slots=True)
class Rival:
    name: str
    call: Callable[[], object]
    captured: bool  # in a CUDA graph: no host between its launches


@dataclass(frozen=True, slots=True)
class KnownSpan:
    """A span whose numbers the host knows: the twins read it, and would wait for the device each time."""

    first: int
    end: int

    def tolist(self) -> list[int]:
        return [self.first, self.end]


def rival(name: str, case: Case, arguments: Arguments) -> Rival:
    """Ready to be timed: compiled, tried and, where that goes, captured. Raises what the operation raises."""
    operation = getattr(operations, case.operation)
    if name == KERNEL:
        return _captured(name, lambda: operation(*arguments), _device(arguments))
    twin, known = operation.__wrapped__, with_known_spans(arguments)
    if name == COMPILED:
        torch._dynamo.reset()  # or the second size would be compiled for sizes in general, and the eighth not at all
        twin = torch.compile(twin, dynamic=False)
    return _captured(name, lambda: twin(*known), _device(arguments))


def with_known_spans(arguments: Arguments) -> Arguments:
    return tuple(KnownSpan(*one.tolist()) if _is_span(one) else one for one in arguments)


def _is_span(one: Any) -> bool:
    return isinstance(one, Tensor) and one.dtype == torch.int32 and tuple(one.shape) == (2,)


def _device(arguments: Arguments) -> torch.device:
    device: torch.device = arguments[0].device
    return device


def _captured(name: str, call: Callable[[], object], device: torch.device) -> Rival:
    for _ in range(WARM_CALLS):
        call()
    if device.type != "cuda":
        return Rival(name, call, captured=False)
    torch.cuda.synchronize(device)
    try:
        _without_asking(call)
    except RuntimeError:
        if name == KERNEL:  # an operation of ours has to fit a graph: it is reported, not timed another way
            raise
        return Rival(name, call, captured=False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return Rival(name, graph.replay, captured=True)


def _without_asking(call: Callable[[], object]) -> None:
    """RuntimeError where the host asks the device something: a capture that fails would leave the allocator unwell."""
    try:
        torch.cuda.set_sync_debug_mode("error")
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Before:
    """Ahead of every call: what the operation wrote is as it was, and no weight is in a cache.

    In a step, 50 GB of other weights come between two uses of one. So the cache is filled with other bytes, by reading:
    written ones would still have to go to memory while the operation is timed. Copies of the weights in rotation
    would do as well, but each needs a graph of its own.
    """

    def __init__(self, case: Case, arguments: Arguments):
        self._kept = [(tensor, tensor.clone()) for tensor in (find(arguments) for find in case.writes.values())]
        device = _device(arguments)
        self._other = torch.zeros(FLUSHED_BYTES // 4 if device.type == "cuda" else 1, device=device)
        self._sum = torch.zeros((), device=device)

    def __call__(self) -> None:
        for tensor, was in self._kept:
            tensor.copy_(was)
        torch.sum(self._other, dim=0, out=self._sum)
