"""How many pages an engine keeps: enough for its canvases in flight at their longest, or what the memory allows."""

from __future__ import annotations

import os
import resource
import sys

import torch

from dgbatch.engine.kv_cache import page_bytes
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.pages import pages_needed

CPU_RATIO = 0.25  # of the machine's memory: several workers may share it
CUDA_RATIO = 0.9  # of what is free once the weights are loaded and the sampler has its part
LOGITS_COPIES = 6  # tensors as large as a canvas's float32 logits that one step holds at once


def count_pages(
    config: ModelConfig, dtype: torch.dtype, canvases: int, prefill_tiles: int, budget: int
) -> tuple[int, int]:
    """Pages of the full and of the sliding pool. budget: bytes; both shrink alike when it is too small for all."""
    wanted, bytes_wanted = _wanted(config, dtype, canvases, prefill_tiles)
    ratio = min(1.0, budget / bytes_wanted)
    return max(1, int(ratio * wanted[0])), max(1, int(ratio * wanted[1]))


def holds_all(config: ModelConfig, dtype: torch.dtype, canvases: int, prefill_tiles: int, budget: int) -> bool:
    """Whether a budget is enough for so many canvases, however long their prompts."""
    return _wanted(config, dtype, canvases, prefill_tiles)[1] <= budget


def _wanted(config: ModelConfig, dtype: torch.dtype, canvases: int, prefill_tiles: int) -> tuple[tuple[int, int], int]:
    """Pages of both pools, and their bytes: for all canvases and one more, which is for shared prefixes."""
    chunks = -(-config.max_positions // config.canvas_length) + 1
    full, sliding = pages_needed(chunks, prefill_tiles, config.canvas_length, config.sliding_window - 1)
    full, sliding = (canvases + 1) * full, (canvases + 1) * sliding
    of_full, of_sliding = page_bytes(config, dtype)
    return (full, sliding), full * of_full + sliding * of_sliding


def default_budget(config: ModelConfig, device: torch.device, canvases: int) -> int:
    """Bytes that keys and values may take, asked of the device once the weights are on it."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        sampling = LOGITS_COPIES * 4 * canvases * config.canvas_length * config.vocab_size
        return max(0, int(CUDA_RATIO * (free - sampling)))
    return int(CPU_RATIO * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def peak_bytes(device: torch.device) -> int:
    """The most this process has held: of the GPU's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
