"""One forward pass over any mix of tiles: rows laid out, embedded, sent through the layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dgbatch.engine.canvases import Canvases
from dgbatch.engine.kv_cache import KVCache
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.scheduler import Tile

CPU_ROWS = 16  # tiles begin at multiples of it: below 16 rows, and at the edge of a vector, libraries sum otherwise


class Passes:
    """Runs tiles. Each is padded to a multiple of `quantum` rows, so that where it lies never changes how it is
    computed; a GPU's tiles are all of one size."""

    def __init__(self, model: Transformer, kv: KVCache, canvases: Canvases):
        self.model = model
        self.kv = kv
        self.canvases = canvases
        self.device = model.embedding.device
        self.quantum = model.config.canvas_length if self.device.type == "cuda" else CPU_ROWS

    def run(self, tiles: Sequence[Tile]) -> Tensor | None:
        """Encode what is to be encoded; returns the canvases' logits in order, None without canvases.

        tiles: those that encode come first; logits: (batch, padded canvas, vocab) float32, softcapped
        """
        placed, rows = self._place(tiles)
        encoding = [(tile, first) for tile, first in placed if tile.causal]
        slots = [tile.sequence.slot for tile in tiles if not tile.causal]
        edge = rows - len(slots) * self.padded(self.model.config.canvas_length)
        parts = []
        if encoding:
            ids = [0] * edge
            for tile, first in encoding:
                ids[first : first + tile.rows] = tile.chunk
            parts.append(self.model.embed_context(self._ids(ids)))
        if slots:
            first_steps = all(tile.sequence.step == 0 for tile in tiles if not tile.causal)
            parts.append(self._embed_canvases(self._ids(slots), first_steps))
        positions = [0] * rows
        for tile, first in placed:
            positions[first : first + tile.rows] = range(tile.start, tile.start + tile.rows)
        causal = torch.arange(rows, device=self.device) < edge
        x = self.model.run_layers(torch.cat(parts), self._ids(positions), causal, self.kv.attend(placed), edge)
        if not slots:
            return None
        return self.model.logits(x.unflatten(0, (len(slots), -1)))

    def rows(self, tiles: Sequence[Tile]) -> set[int]:
        """Of the whole pass, of its canvases, and of each tile alone: what their arithmetic may depend on."""
        own = {self.padded(tile.rows) for tile in tiles}
        canvases = sum(not tile.causal for tile in tiles) * self.padded(self.model.config.canvas_length)
        return {self._place(tiles)[1], canvases, *own} - {0}

    def padded(self, rows: int) -> int:
        return -(-rows // self.quantum) * self.quantum

    def _place(self, tiles: Sequence[Tile]) -> tuple[list[tuple[Tile, int]], int]:
        placed, rows = [], 0
        for tile in tiles:
            placed.append((tile, rows))
            rows += self.padded(tile.rows)
        return placed, rows

    def _embed_canvases(self, slots: Tensor, first_steps: bool) -> Tensor:
        length = self.model.config.canvas_length
        pad = self.padded(length) - length
        tokens = self.canvases.tokens[slots]
        soft = None if first_steps else self.canvases.soft[slots]
        if pad:
            tokens = torch.nn.functional.pad(tokens, (0, pad))
            soft = None if soft is None else torch.nn.functional.pad(soft, (0, 0, 0, pad))
        return self.model.embed_canvas(tokens, soft).flatten(0, 1)

    def _ids(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)
