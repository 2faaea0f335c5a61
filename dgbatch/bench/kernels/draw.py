"""Random tensors for operations, the same for the same seed on the same kind of device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dgbatch.bench.kernels.seats import Company
from dgbatch.engine.kernels.tables import Slots, Tiles
from dgbatch.roofline import Layer, Shape


@dataclass(slots=True)
class Draw:
    """What a case makes its arguments of: weights, rows at work, slots, tiles and pages of one pass."""

    shape: Shape
    company: Company
    dtype: torch.dtype
    device: torch.device
    seed: int

    def normal(self, *size: int, scale: float = 1.0, dtype: torch.dtype | None = None) -> Tensor:
        made = torch.empty(size, dtype=dtype or self.dtype, device=self.device)
        return made if self.meta else made.normal_(0.0, scale, generator=self._generator())

    def weight(self, *size: int) -> Tensor:
        """A matrix, or one for each expert, whose products with rows of unit size are of unit size."""
        return self.normal(*size, scale=size[-1] ** -0.5)

    def norm(self, size: int) -> Tensor:
        made = torch.empty(size, dtype=self.dtype, device=self.device)
        return made if self.meta else made.normal_(1.0, 0.1, generator=self._generator())

    def uniform(self, *size: int) -> Tensor:
        """float32 in (0, 1]"""
        made = torch.empty(size, device=self.device)
        return made if self.meta else 1 - made.uniform_(generator=self._generator())

    def tokens(self, *size: int) -> Tensor:
        """int32 ids"""
        made = torch.empty(size, dtype=torch.int32, device=self.device)
        return made if self.meta else made.random_(0, self.shape.vocab, generator=self._generator())

    def rows(self, *width: int, times: int = 1, scale: float = 1.0) -> Tensor:
        """(M * times, *width); NaN in the rows that are not at work."""
        made = self.normal(self.company.rows * times, *width, scale=scale)
        if not self.meta:
            made[self.company.span * times :] = float("nan")
        return made

    def chosen(self) -> Tensor:
        """(M, chosen) int32, no expert twice in a row, each as likely as the other; -1 in rows that are not at work."""
        rows, shape = self.company.rows, self.shape
        if self.meta:
            return torch.empty(rows, shape.chosen, dtype=torch.int32, device=self.device)
        made = self.uniform(rows, shape.experts).topk(shape.chosen).indices.int()
        made[self.company.span :] = -1
        return made

    def grouped(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """counts (experts,) and places (experts, M) int32, as of group_rows."""
        experts, rows = self.shape.experts, self.company.rows
        counts = torch.zeros(experts, dtype=torch.int32, device=self.device)
        places = torch.full((experts, rows), -1, dtype=torch.int32, device=self.device)
        if not self.meta:
            everyone = index.flatten()[: self.company.span * self.shape.chosen]
            for expert in range(experts):
                (own,) = (everyone == expert).nonzero(as_tuple=True)
                counts[expert], places[expert, : len(own)] = len(own), own.int()
        return counts, places

    def slots(self) -> Slots:
        soft = self.normal(len(self.company.seats), self.company.tile_rows, self.shape.hidden)
        return self.company.slots(self.shape.vocab, soft, self._next())

    def tiles(self) -> Tiles:
        return self.company.laid(self.device)

    def pool(self, layer: Layer) -> Tensor:
        """(pages + slots, 2, kv_heads, canvas, head_dim): keys and values of pages, then of each slot's canvas.

        Scores of a few units, as the norms of queries and keys make them.
        """
        pages = self.company.pages + len(self.company.seats)
        made = self.normal(pages, 2, layer.kv_heads, self.company.length, layer.head_dim)
        made[:, 0] *= 3 * layer.head_dim**-0.5
        return made

    @property
    def meta(self) -> bool:
        return self.device.type == "meta"

    def _next(self) -> int:
        self.seed += 1
        return self.seed

    def _generator(self) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self._next())
