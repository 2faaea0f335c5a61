"""What this device can do at most, right now: a copy and a product of matrices, the best of a few tries of each."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from dgbatch.engine.model.transformer import Transformer

GEMM_SIZE = {"cpu": 1024, "cuda": 8192}
CEILING_BYTES = 256 << 20  # copied to see what the memory does: beyond every cache, and small beside any model
TRIES, LEAST_S = 3, 0.01


@torch.inference_mode()
def ceilings(model: Transformer, dtype: torch.dtype) -> tuple[float, float]:
    """Bytes and operations a second that the model's device reaches, in a fraction of a second."""
    device = model.embedding.device
    values = min(CEILING_BYTES // dtype.itemsize, sum(each.numel() for each in model.parameters()))
    moved = copy_bytes_per_s(device, dtype, values, TRIES, LEAST_S)
    return moved, gemm_flops_per_s(device, dtype, TRIES, LEAST_S)


def copy_bytes_per_s(device: torch.device, dtype: torch.dtype, values: int, tries: int, least_s: float) -> float:
    """Read and written. values: as many as are copied; what a cache can keep of them comes out as fast as it is."""
    source = torch.empty(values, device=device, dtype=dtype).zero_()
    target = torch.empty_like(source)
    return 2 * values * source.element_size() / best_s(lambda: target.copy_(source), device, tries, least_s)


def gemm_flops_per_s(device: torch.device, dtype: torch.dtype, tries: int, least_s: float) -> float:
    """Of two large square matrices."""
    size = GEMM_SIZE[device.type]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / best_s(lambda: left @ right, device, tries, least_s)


def best_s(work: Callable[[], object], device: torch.device, tries: int, least_s: float) -> float:
    """The fastest of a few tries, each long enough for a clock. least_s: of one try."""
    rounds, best = 1, 0.0
    while best < least_s:
        best = min(_timed(work, rounds, device) for _ in range(tries))
        rounds *= 2
    return best / (rounds // 2)


def _timed(work: Callable[[], object], rounds: int, device: torch.device) -> float:
    if device.type == "cuda":
        return _timed_by_events(work, rounds, device)
    start = time.perf_counter()
    for _ in range(rounds):
        work()
    return time.perf_counter() - start


def _timed_by_events(work: Callable[[], object], rounds: int, device: torch.device) -> float:
    """The device's own seconds: without the host's waiting for it."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.device(device):
        start.record()
        for _ in range(rounds):
            work()
        end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3
