"""The keys and values of clean text, in pages, and how the tiles of a pass look at them."""

from __future__ import annotations

import torch
from torch import Tensor

from dgbatch.engine import kernels
from dgbatch.engine.model.attention import Attend
from dgbatch.engine.model.config import LayerConfig, ModelConfig
from dgbatch.engine.pages import View
from dgbatch.engine.scheduler import Tile


class KVCache:
    """Per layer a pool of pages: (pages, page_tokens, 2, kv_heads, head_dim), keys before values."""

    def __init__(self, config: ModelConfig, full: int, sliding: int, device: torch.device, dtype: torch.dtype):
        self.config = config
        self.pools = [
            torch.empty(sliding if kind.sliding else full, *page_shape(config, kind), device=device, dtype=dtype)
            for kind in config.layers
        ]

    def read(self, layer: int, view: View) -> list[Tensor]:
        """Keys and values in a view's order, page by page: (tokens, 2, kv_heads, head_dim)."""
        pool = self.pools[layer]
        return [pool[page, first:end] for page, first, end in view]

    def attend(self, placed: list[tuple[Tile, int]]) -> Attend:
        """For one pass: tiles and the row where each begins.

        Encoding tiles are causal and their keys and values are kept; a canvas sees what is before it and all of
        itself, and leaves no trace. Whatever a pass encodes can be seen by the other tiles of that pass.
        """
        masks: dict[tuple[int, int, bool], Tensor] = {}

        def mask(rows: int, past: int, sliding: bool) -> Tensor:
            if (rows, past, sliding) not in masks:
                masks[rows, past, sliding] = self._causal_mask(rows, past, sliding)
            return masks[rows, past, sliding]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            sliding = self.config.layers[layer].sliding
            own = torch.stack([k, v], dim=-3)
            out = torch.zeros_like(q)
            for tile, first in placed:
                if tile.causal:
                    self.pools[layer][tile.pages[sliding], : tile.rows] = own[first : first + tile.rows]
            for tile, first in placed:
                rows = slice(first, first + tile.rows)
                seen = torch.cat([*self.read(layer, tile.sliding if sliding else tile.full), own[rows]])
                visible = mask(tile.rows, len(seen) - tile.rows, sliding) if tile.causal else None
                out[rows] = kernels.attention(q[rows], seen[:, 0], seen[:, 1], visible)
            return out

        return attend

    def _causal_mask(self, rows: int, past: int, sliding: bool) -> Tensor:
        device = self.pools[0].device
        key = torch.arange(-past, rows, device=device)
        row = torch.arange(rows, device=device)[:, None]
        mask = key <= row
        return mask & (key > row - self.config.sliding_window) if sliding else mask


def page_shape(config: ModelConfig, kind: LayerConfig) -> tuple[int, int, int, int]:
    return config.canvas_length, 2, kind.kv_heads, kind.head_dim


def page_bytes(config: ModelConfig, dtype: torch.dtype) -> tuple[int, int]:
    """Of one page in all full layers and in all sliding layers."""
    sizes = [0, 0]
    for kind in config.layers:
        sizes[kind.sliding] += torch.Size(page_shape(config, kind)).numel() * dtype.itemsize
    return sizes[0], sizes[1]
