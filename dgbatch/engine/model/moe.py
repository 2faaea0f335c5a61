"""The mixture of experts of one layer: a router on the raw residual, and the experts it picks."""

from __future__ import annotations

from torch import Tensor, nn

from dgbatch.engine import kernels
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.model.layers import weight


class Router(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.proj = weight(config.experts, config.hidden)
        self.scale = weight(config.hidden)
        self.per_expert_scale = weight(config.experts)
        self.chosen = config.chosen_experts

    def forward(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        """unit: (rows, hidden), the residual after a norm without weight.

        Returns (rows, chosen) float32 weights and (rows, chosen) int64 experts.
        """
        return kernels.route(unit, self.proj, self.scale, self.per_expert_scale, self.chosen)


class Experts(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_up = weight(config.experts, 2 * config.moe_intermediate, config.hidden)
        self.down = weight(config.experts, config.hidden, config.moe_intermediate)

    def forward(self, x: Tensor, weights: Tensor, index: Tensor) -> Tensor:
        """x: (rows, hidden) normed; weights, index: (rows, chosen) from the router; returns like x."""
        return kernels.experts(x, weights, index, self.gate_up, self.down)
