"""Muon for the matrices of a small model, AdamW for the rest (K. Jordan 2024; scale after Moonshot 2025)."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
# A quintic whose repeated application drives every singular value of a matrix towards 1.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal, is the step: every direction of a matrix learns equally fast.

    Takes matrices (rows, columns) and stacks of them (experts, rows, columns); equal shapes are handled together.
    The step is scaled to the size AdamW would take, so both share one learning rate.
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, weight_decay: float):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                alike[tuple(parameter.shape[-2:])].append(parameter)
            for (rows, columns), parameters in alike.items():
                updates = torch.cat([self._momentum(parameter).reshape(-1, rows, columns) for parameter in parameters])
                updates = orthogonal(updates) * (0.2 * max(rows, columns) ** 0.5)
                counts = [parameter.numel() // (rows * columns) for parameter in parameters]
                for parameter, update in zip(parameters, updates.split(counts), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.view_as(parameter), alpha=-group["lr"])

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        """Nesterov's: the gradient as the momentum will see it."""
        assert parameter.grad is not None
        average = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        average.lerp_(parameter.grad, 1 - MOMENTUM)
        return parameter.grad.lerp(average, MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """Each matrix with its singular values moved to about 1. matrices: (batch, rows, columns); returns likewise."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
