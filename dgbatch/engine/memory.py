"""How many pages an engine keeps: enough for its canvases in flight at their longest, or what the memory allows."""

from __future__ import annotations

import os
import resource
import sys

import torch

from dgbatch.engine.device_step.tile_count import most_tiles, tile_rows
from dgbatch.engine.kernels.tables import HEAD_COLUMNS
from dgbatch.engine.kv_cache import page_bytes
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.pages import pages_needed

CPU_RATIO = 0.25  # of the machine's memory: several workers may share it
CUDA_RATIO = 0.9  # of what is free once the weights are loaded and the sampler has its part
PARTS = {"attend": 2, "soft_rows": 6}  # float32 sums of these kernels before they are merged
OF_COLUMN = 5  # numbers that the head and `decide` keep of each row and column tile
LOGITS_COPIES = 6  # tensors as large as a canvas's float32 logits that one plain step holds at once


def count_pages(
    config: ModelConfig, dtype: torch.dtype, canvases: int, prefill_tiles: int, budget: int, ahead: int = 0
) -> tuple[int, int]:
    """Pages of the full and of the sliding pool. budget: bytes; both shrink alike when it is too small for all.

    ahead: pages that a text may be given before it is there
    """
    wanted, bytes_wanted = _wanted(config, dtype, canvases, prefill_tiles, ahead)
    ratio = min(1.0, budget / bytes_wanted)
    return max(1, int(ratio * wanted[0])), max(1, int(ratio * wanted[1]))


def holds_all(
    config: ModelConfig, dtype: torch.dtype, canvases: int, prefill_tiles: int, budget: int, ahead: int = 0
) -> bool:
    """Whether a budget is enough for so many canvases, however long their prompts."""
    return _wanted(config, dtype, canvases, prefill_tiles, ahead)[1] <= budget


def _wanted(
    config: ModelConfig, dtype: torch.dtype, canvases: int, prefill_tiles: int, ahead: int = 0
) -> tuple[tuple[int, int], int]:
    """Pages of both pools, and their bytes: for all canvases and one more, which is for shared prefixes."""
    length = config.canvas_length
    chunks, window = -(-config.max_positions // length) + 1, config.sliding_window - 1 + ahead * length
    full, sliding = pages_needed(chunks, prefill_tiles, length, window)
    full, sliding = (canvases + 1) * full, (canvases + 1) * sliding
    of_full, of_sliding = page_bytes(config, dtype)
    return (full, sliding), full * of_full + sliding * of_sliding


def default_budget(config: ModelConfig, device: torch.device, canvases: int, held: int | None = None) -> int:
    """Bytes that keys and values may take, asked of the device once the weights are on it.

    held: bytes that a step holds beside them; None: what the plain passes hold of logits
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = plain_step_bytes(config, canvases) if held is None else held
        return max(0, int(CUDA_RATIO * (free - held)))
    return int(CPU_RATIO * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def plain_step_bytes(config: ModelConfig, canvases: int) -> int:
    """What a step of plain PyTorch holds of its canvases' logits; all else is small beside them."""
    return LOGITS_COPIES * 4 * canvases * config.canvas_length * config.vocab_size


def device_step_bytes(config: ModelConfig, dtype: torch.dtype, canvases: int, prefill_tiles: int) -> int:
    """What a step of device_step/ holds beside weights and pages of clean text, at the most tiles that it may have.

    Of the vocabulary a canvas's exponentials in the weights' dtype and no float32; of the layers what is alive at once
    of one of them, counted as if nothing of it were reused. All of it twice: the first step of a tile count is launched
    kernel by kernel, beside the memory that the graphs of other counts keep.
    """
    size, hidden, rows = dtype.itemsize, config.hidden, tile_rows(config.canvas_length)
    heads = max((config.heads + 2 * kind.kv_heads) * kind.head_dim for kind in config.layers)
    expert = config.chosen_experts * (config.moe_intermediate + hidden)
    a_row = (9 * hidden + 4 * heads + config.intermediate + expert) * size + PARTS["attend"] * 4 * heads
    layers = most_tiles(canvases, prefill_tiles) * rows * a_row
    columns = -(-config.vocab_size // HEAD_COLUMNS)
    head = rows * (config.vocab_size * size + (OF_COLUMN * columns + PARTS["soft_rows"] * hidden) * 4)
    slot = rows * hidden * size + config.vocab_size + sum(page_bytes(config, dtype))
    return 2 * (layers + canvases * head) + canvases * slot


def peak_bytes(device: torch.device) -> int:
    """The most this process has held: of the GPU's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
