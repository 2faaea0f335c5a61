"""The small parts every layer is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgbatch.engine import kernels
from dgbatch.engine.model.config import LayerConfig


def weight(*shape: int) -> nn.Parameter:
    """An uninitialised parameter: weights come from a checkpoint or from Transformer.reset_parameters."""
    return nn.Parameter(torch.empty(*shape))


def joined(matrices: Sequence[nn.Parameter], before: Tensor | None = None) -> Tensor:
    """Matrices one below the other, for one product. They are parts of it from then on, so nothing is kept twice.

    before: what an earlier call returned; as it is, where they are still its parts: others may hold it
    """
    sizes = [len(matrix) for matrix in matrices]
    if before is not None:
        parts = zip(matrices, before.split(sizes), strict=True)
        if all(matrix.data_ptr() == part.data_ptr() for matrix, part in parts):
            return before
    whole = torch.cat([matrix.data for matrix in matrices])
    for matrix, rows in zip(matrices, whole.split(sizes), strict=True):
        matrix.data = rows
    return whole


class Rope:
    """The rotation of a position, for every kind of layer.

    On a CPU cosines cost more than an attention layer's norms (docs/lab_log.md), so there they are looked up in tables
    that grow with the longest text so far.
    """

    def __init__(self, kinds: Iterable[LayerConfig]):
        with torch.device("cpu"):  # not with the weights, which may be on no device yet
            self.frequencies = {
                kind: kernels.rope_frequencies(kind.head_dim, kind.rope_theta, kind.rotated_pairs) for kind in kinds
            }
            self._tables = {kind: kernels.rope_angles(torch.arange(0), own) for kind, own in self.frequencies.items()}

    def __call__(self, positions: Tensor) -> dict[LayerConfig, tuple[Tensor, Tensor]]:
        """positions: (...) int64; returns by kind cos and sin, (..., head_dim) float32."""
        if positions.device.type != "cpu" or not positions.numel():
            moved = {kind: own.to(positions.device) for kind, own in self.frequencies.items()}
            return {kind: kernels.rope_angles(positions, own) for kind, own in moved.items()}
        last = int(positions.max())
        angles = {}
        for kind, frequencies in self.frequencies.items():
            if last >= len(self._tables[kind][0]):
                self._tables[kind] = kernels.rope_angles(torch.arange(2 * last + 1), frequencies)
            cos, sin = self._tables[kind]
            angles[kind] = F.embedding(positions, cos), F.embedding(positions, sin)
        return angles


class GatedMLP(nn.Module):
    """down(gelu_tanh(gate x) * (up x)): the dense MLP beside the experts, and the self-conditioning MLP."""

    def __init__(self, hidden: int, intermediate: int):
        super().__init__()
        self.gate = weight(intermediate, hidden)
        self.up = weight(intermediate, hidden)
        self.down = weight(hidden, intermediate)
        self._joined: Tensor | None = None

    def joined(self) -> Tensor:
        """gate above up: (2 * intermediate, hidden)."""
        self._joined = joined([self.gate, self.up], self._joined)
        return self._joined

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
