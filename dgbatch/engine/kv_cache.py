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
    """Per layer a pool of pages: (pages, 2, kv_heads, page_tokens, head_dim), keys before values."""

    def __init__(self, config: ModelConfig, full: int, sliding: int, device: torch.device, dtype: torch.dtype):
        self.config = config
        self.pools = [
            torch.empty(sliding if kind.sliding else full, *page_shape(config, kind), device=device, dtype=dtype)
            for kind in config.layers
        ]

    def read(self, layer: int, view: View) -> list[Tensor]:
        """Keys and values in a view's order, page by page: (2, kv_heads, tokens, head_dim)."""
        pool = self.pools[layer]
        return [pool[page, :, :, first:end] for page, first, end in view]

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
            kv_heads, sliding = self.config.layers[layer].kv_heads, self.config.layers[layer].sliding
            own = torch.stack([k.movedim(1, 0), v.movedim(1, 0)])
            asking = kernels.group_heads(q, kv_heads)
            out = torch.zeros_like(asking) if len(placed) > 1 else asking  # one tile is all there is to overwrite
            skipped = len(k) - len(q)
            for tile, first in placed:
                if tile.causal:
                    page = self.pools[layer][tile.pages[sliding]]
                    page[:, :, : tile.rows] = own[:, :, first : first + tile.rows]
            for tile, first in placed:
                if first < skipped:
                    continue
                view = tile.sliding if sliding else tile.full
                seen = torch.cat([*self.read(layer, view), own[:, :, first : first + tile.rows]], 2)
                visible = mask(tile.rows, seen.shape[2] - tile.rows, sliding) if tile.causal else None
                rows = slice(first - skipped, first - skipped + tile.rows)
                keys, values = seen.unbind()
                out[:, rows] = kernels.grouped_attention(asking[:, rows], keys, values, visible)
            return kernels.ungroup_heads(out)

        return attend

    def _causal_mask(self, rows: int, past: int, sliding: bool) -> Tensor:
        device = self.pools[0].device
        key = torch.arange(-past, rows, device=device)
        row = torch.arange(rows, device=device)[:, None]
        mask = key <= row
        return mask & (key > row - self.config.sliding_window) if sliding else mask


def page_shape(config: ModelConfig, kind: LayerConfig) -> tuple[int, int, int, int]:
    return 2, kind.kv_heads, config.canvas_length, kind.head_dim


def page_bytes(config: ModelConfig, dtype: torch.dtype) -> tuple[int, int]:
    """Of one page in all full layers and in all sliding layers."""
    sizes = [0, 0]
    for kind in config.layers:
        sizes[kind.sliding] += torch.Size(page_shape(config, kind)).numel() * dtype.itemsize
    return sizes[0], sizes[1]
