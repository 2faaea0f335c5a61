"""The projections of one attention layer. Who may look at whom is the caller's: it passes `attend`."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from dgbatch.engine import kernels
from dgbatch.engine.model.config import LayerConfig, ModelConfig
from dgbatch.engine.model.layers import weight

# attend(layer, q, k, v) -> like q.  q: (..., heads, head_dim); k, v: (..., kv_heads, head_dim).
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Attention(nn.Module):
    """q, k, v from a normed hidden state, and the way back; full layers take V from the raw K projection."""

    def __init__(self, config: ModelConfig, layer: LayerConfig, index: int):
        super().__init__()
        self.index, self.heads, self.layer, self.eps = index, config.heads, layer, config.norm_eps
        hidden, size = config.hidden, layer.head_dim
        self.q = weight(config.heads * size, hidden)
        self.k = weight(layer.kv_heads * size, hidden)
        self.v = weight(layer.kv_heads * size, hidden) if layer.sliding else None
        self.o = weight(hidden, config.heads * size)
        self.q_norm = weight(size)
        self.k_norm = weight(size)

    def forward(self, h: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """h: (..., hidden) normed; cos, sin: (..., head_dim) of this layer's kind; returns like h."""
        size = self.layer.head_dim
        q = F.linear(h, self.q).unflatten(-1, (self.heads, size))
        k_raw = F.linear(h, self.k).unflatten(-1, (self.layer.kv_heads, size))
        v_raw = k_raw if self.v is None else F.linear(h, self.v).unflatten(-1, (self.layer.kv_heads, size))
        q = kernels.rope(kernels.rms_norm(q, self.q_norm, self.eps), cos, sin)
        k = kernels.rope(kernels.rms_norm(k_raw, self.k_norm, self.eps), cos, sin)
        v = kernels.rms_norm(v_raw, None, self.eps)
        return F.linear(attend(self.index, q, k, v).flatten(-2), self.o)
