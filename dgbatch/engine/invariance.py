"""Whether a tile gets the same bits in company as alone: asked of the machine, for no library promises it.

A CPU library picks its GEMM kernel, and with it the order in which a row is summed, by the number of rows, the dtype
and the threads; an elementwise function may take another path for the last few values of a tensor. What one row of a
pass becomes is a function of its own values, of where it lies and of how many rows there are (attention aside, which
each tile computes alone). So a pass of so many rows is rehearsed once: made-up rows together, and in blocks. An expert
gets whichever rows chose it: it is rehearsed with every number of them, and with each row in another place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dgbatch.engine import kernels, sampler
from dgbatch.engine.kernels import GROUP_ROWS
from dgbatch.engine.model.transformer import Layer, Transformer


class Rehearsal:
    """Rehearses each number of rows when it first comes up, with the engine's own weights."""

    def __init__(self, model: Transformer, block: int):
        """block: rows of the smallest tile; every pass is a multiple of it."""
        self.model = model
        self.block = block
        self._blocks: list[list[Tensor]] = []  # what each block of made-up rows becomes alone
        self._known: dict[int, bool] = {}
        self._groups_known, self._groups_hold = 0, 0  # rows of one expert: rehearsed, and how far the bits agreed

    @torch.inference_mode()
    def holds(self, rows: int) -> bool:
        """Whether each row of a pass of so many rows comes out as it does in a block of its own, bit for bit."""
        if rows not in self._known:
            self._known[rows] = self._groups_agree(rows) and self._rehearse(rows)
        return self._known[rows]

    def _groups_agree(self, rows: int) -> bool:
        """Whether a row comes out of an expert the same among up to so many others, wherever it lies among them."""
        while self._groups_known < rows and self._groups_hold == self._groups_known:
            self._groups_known += GROUP_ROWS
            if self._one_group_agrees(self._groups_known):
                self._groups_hold = self._groups_known
        return rows <= self._groups_hold

    def _one_group_agrees(self, rows: int) -> bool:
        model = self.model
        ids = torch.arange(rows, device=model.embedding.device) * 7919 % model.config.vocab_size
        x = model.embed_canvas(ids, None)
        layer = model.layers[0]
        assert isinstance(layer, Layer)
        experts = layer.experts
        everyone = torch.zeros(rows, 1, dtype=torch.int64, device=ids.device)  # to expert 0

        def through(own: Tensor) -> Tensor:
            some = everyone[: len(own)]
            return kernels.experts(own, some.float() + 1, some, experts.gate_up, experts.down)

        together, shifted = through(x), through(x.roll(1, 0)).roll(-1, 0)
        before = through(x[:-GROUP_ROWS]) if rows > GROUP_ROWS else together[:0]
        return torch.equal(together, shifted) and torch.equal(together[: len(before)], before)

    def _rehearse(self, rows: int) -> bool:
        while len(self._blocks) * self.block < rows:
            first = len(self._blocks) * self.block
            self._blocks.append(self._run(first, first + self.block))
        apart = [torch.cat(parts) for parts in zip(*self._blocks[: rows // self.block], strict=True)]
        return all(torch.equal(one, other) for one, other in zip(self._run(0, rows), apart, strict=True))

    def _run(self, first: int, end: int) -> list[Tensor]:
        """All that decides tokens, of made-up rows first to end - 1, through one layer of each kind."""
        model, kinds = self.model, self.model.config.layers
        ids = torch.arange(first, end, device=model.embedding.device) * 7919 % model.config.vocab_size
        seen: list[Tensor] = []

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            seen.extend([k, v])
            return q

        one_of_each = {kind: index for index, kind in enumerate(kinds)}.values()
        embedded = model.embed_canvas(ids, model.embed_context((ids + 1) % model.config.vocab_size))
        x = model.run_layers(embedded, ids, ids % 2 == 0, attend, only=list(one_of_each))
        logits = model.logits(x)
        belief = sampler.believe(logits)
        return [embedded, *seen, x, logits, belief.p, belief.entropy, model.soft_embeddings(belief.p)]
