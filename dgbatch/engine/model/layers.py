"""The small parts every layer is made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dgbatch.engine import kernels


def weight(*shape: int) -> nn.Parameter:
    """An uninitialised parameter: weights come from a checkpoint or from Transformer.reset_parameters."""
    return nn.Parameter(torch.empty(*shape))


class GatedMLP(nn.Module):
    """down(gelu_tanh(gate x) * (up x)): the dense MLP beside the experts, and the self-conditioning MLP."""

    def __init__(self, hidden: int, intermediate: int):
        super().__init__()
        self.gate = weight(intermediate, hidden)
        self.up = weight(intermediate, hidden)
        self.down = weight(hidden, intermediate)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., hidden); returns like x."""
        return kernels.gated_mlp(x, self.gate, self.up, self.down)


class SelfConditioning(nn.Module):
    """Mixes the previous step's soft embeddings into the canvas; the norm after it has no weight."""

    def __init__(self, hidden: int, intermediate: int, eps: float):
        super().__init__()
        self.norm = weight(hidden)
        self.mlp = GatedMLP(hidden, intermediate)
        self.eps = eps

    def forward(self, embedded: Tensor, soft: Tensor | None) -> Tensor:
        """embedded, soft: (..., hidden). Without `soft` (a canvas's first step) the branch is exactly zero."""
        if soft is not None:
            embedded = embedded + self.mlp(kernels.rms_norm(soft, self.norm, self.eps))
        return kernels.rms_norm(embedded, None, self.eps)
