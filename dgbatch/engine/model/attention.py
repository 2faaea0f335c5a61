"""The projections of one attention layer. Who may look at whom is the caller's: it passes `attend`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgbatch.engine import kernels
from dgbatch.engine.model.config import LayerConfig, ModelConfig
from dgbatch.engine.model.layers import joined, weight

# attend(layer, q, k, v) -> like q.  q: (..., heads, head_dim); k, v: (..., kv_heads, head_dim).
# q may have fewer rows than k: those of the last ones.
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
        self._joined: Tensor | None = None  # Q, K and V, one below the other
        self._norms: Tensor | None = None

    def forward(self, h: Tensor, cos: Tensor, sin: Tensor, attend: Attend, context: int = 0) -> Tensor:
        """h: (..., hidden) normed; cos, sin: (..., head_dim) of this layer's kind; returns like h.

        context: of the first so many rows nothing is wanted but keys and values; they are not returned
        """
        size, kv_heads = self.layer.head_dim, self.layer.kv_heads
        qkv, weights = self._joined, self._norms
        if qkv is None or weights is None or torch.is_grad_enabled():
            qkv, weights = torch.cat([*self._matrices()]), self._both_norms()
        projected = F.linear(h, qkv).unflatten(-1, (-1, size))
        # one norm and one rotation for all heads; a full layer's V is its K before the weight
        unit = kernels.rms_norm(projected.float(), None, self.eps)
        turned = kernels.rope((unit[..., : self.heads + kv_heads, :] * weights).to(h.dtype), cos, sin)
        q, k = turned.split([self.heads, kv_heads], dim=-2)
        out = attend(self.index, q[context:], k, unit[..., -kv_heads:, :].to(h.dtype))
        return F.linear(out.flatten(-2), self.o)

    def prepare(self) -> None:
        """Lay the matrices of Q, K and V one below the other, for one product; the single ones are parts of it then."""
        self._joined = joined(self._matrices(), self._joined)
        self._norms = self._both_norms().detach()

    @property
    def qkv(self) -> Tensor:
        """((heads + kv_heads [+ kv_heads]) * head_dim, hidden); once prepared."""
        assert self._joined is not None
        return self._joined

    def _both_norms(self) -> Tensor:
        """The norm weights of all heads of Q and K: (heads + kv_heads, head_dim)."""
        return torch.cat([self.q_norm.expand(self.heads, -1), self.k_norm.expand(self.layer.kv_heads, -1)])

    def _matrices(self) -> list[nn.Parameter]:
        return [self.q, self.k] if self.v is None else [self.q, self.k, self.v]
