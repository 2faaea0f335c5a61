"""The keys and values of one sequence's clean tokens, and the two ways of looking at them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dgbatch.engine import kernels
from dgbatch.engine.model.attention import Attend
from dgbatch.engine.model.config import ModelConfig


class KVCache:
    """Room for `capacity` tokens in every layer; `length` of them are encoded."""

    def __init__(self, config: ModelConfig, capacity: int, device: torch.device, dtype: torch.dtype):
        self.config = config
        self.length = 0
        self.k = [
            torch.empty(capacity, kind.kv_heads, kind.head_dim, device=device, dtype=dtype) for kind in config.layers
        ]
        self.v = [torch.empty_like(k) for k in self.k]

    def prefix(self, layer: int) -> tuple[Tensor, Tensor]:
        """What a row after the last token may see: everything, or the last window - 1 tokens on sliding layers.

        returns: k, v (tokens, kv_heads, head_dim)
        """
        kind = self.config.layers[layer]
        first = max(0, self.length - (self.config.sliding_window - 1)) if kind.sliding else 0
        return self.k[layer][first : self.length], self.v[layer][first : self.length]

    def attend_causal(self) -> Attend:
        """For rows in encoder mode: they follow the cached tokens, see themselves causally, and are cached.

        The rows count as encoded once `length` is moved on, after the last layer.
        """

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            rows = q.shape[0]
            past_k, past_v = self.prefix(layer)
            self.k[layer][self.length : self.length + rows] = k
            self.v[layer][self.length : self.length + rows] = v
            key = torch.arange(-past_k.shape[0], rows, device=q.device)
            row = torch.arange(rows, device=q.device)[:, None]
            mask = key <= row
            if self.config.layers[layer].sliding:
                mask &= key > row - self.config.sliding_window
            return kernels.attention(q, torch.cat([past_k, k]), torch.cat([past_v, v]), mask)

        return attend


def attend_canvases(caches: Sequence[KVCache]) -> Attend:
    """For canvases: each sees its own prefix and all of itself, and is never cached.

    q, k, v: (batch, canvas, heads, head_dim), one cache per canvas. The rectangle needs no mask.
    """

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        for index, cache in enumerate(caches):
            past_k, past_v = cache.prefix(layer)
            out[index] = kernels.attention(q[index], torch.cat([past_k, k[index]]), torch.cat([past_v, v[index]]))
        return out

    return attend
