"""Passes made up by hand: texts in scattered pages among garbage, and who of them has tiles."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dgbatch.engine.kernels.tables import Number, Of, Slots, Tiles


@dataclass(frozen=True)
class Text:
    """One sequence: its prompt, the canvases that settled, and what of it is in the pass."""

    prompt: int
    settled: int = 0
    chunks: range = range(0)  # numbers of the chunks that this pass encodes; pages after them are garbage
    canvas: bool = True

    def places(self, page_tokens: int) -> list[tuple[int, int]]:
        """First position and tokens of every chunk."""
        short = [(begin, min(page_tokens, self.prompt - begin)) for begin in range(0, self.prompt, page_tokens)]
        return short + [(self.prompt + page_tokens * number, page_tokens) for number in range(self.settled)]


@dataclass(frozen=True)
class Shape:
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    page_tokens: int = 8
    tile_rows: int = 64


class Pass:
    """Tensors of one attention layer in one pass. What nobody may read is NaN, q outside the span among it."""

    def __init__(
        self,
        texts: list[Text],
        shape: Shape = Shape(),
        sliding: bool = True,
        window: int = 11,  # more than a page of 8, less than two
        spare_tiles: int = 1,
        dtype: torch.dtype = torch.float32,
    ):
        self.texts, self.shape, self.sliding, self.window = texts, shape, sliding, window
        random = torch.Generator().manual_seed(len(texts))
        places = [text.places(shape.page_tokens) for text in texts]
        longest = max(map(len, places)) + 1
        pages = torch.randperm(len(texts) * longest * 2, generator=random)
        nobody = len(pages)
        size = (2, shape.kv_heads, shape.page_tokens, shape.head_dim)
        self.pool = torch.full((nobody + 1 + len(texts), *size), torch.nan)
        self.keys_values = []  # of each text and its canvas: (2, positions, kv_heads, head_dim)
        numbers = torch.zeros(len(texts), len(Number), dtype=torch.int32)
        table = torch.full((2, len(texts), longest), nobody, dtype=torch.int32)
        chunks, canvases = [], []
        for slot, (text, own) in enumerate(zip(texts, places, strict=True)):
            end = sum(tokens for _, tokens in own)
            numbers[slot, Number.RUNNING], numbers[slot, Number.PROMPT] = 1, text.prompt
            numbers[slot, Number.TEXT] = end
            whole = torch.randn(2, end + shape.page_tokens, shape.kv_heads, shape.head_dim, generator=random)
            self.keys_values.append(whole)
            earliest = own[text.chunks[0]][0] if text.chunks else end  # the first position of the pass
            there = text.chunks[-1] + 1 if text.chunks else len(own)
            for number, (begin, tokens) in enumerate(own[:there]):
                if not sliding or begin + tokens > earliest - window + 1:
                    page = int(pages[slot * longest + number])
                    table[int(sliding), slot, number] = page
                    self.pool[page, :, :, :tokens] = whole[:, begin : begin + tokens].transpose(1, 2)
            chunks += [[slot, 0, *own[number], number, 0] for number in text.chunks]
            if text.canvas:
                self.pool[nobody + 1 + slot] = whole[:, end:].transpose(1, 2)
                canvases.append([slot, 1, end, shape.page_tokens, len(own), 0])
        rows = chunks + canvases
        self.tiles = _tiles(rows, len(chunks), len(rows) + spare_tiles, shape.tile_rows)
        self.slots = _slots(numbers, table)
        self.q = torch.randn((len(rows) + spare_tiles) * shape.tile_rows, shape.heads, shape.head_dim, generator=random)
        self.q[len(rows) * shape.tile_rows :] = torch.nan
        self.q, self.pool = self.q.to(dtype), self.pool.to(dtype)
        self.keys_values = [whole.to(dtype) for whole in self.keys_values]
        self.at_work = len(rows)

    @property
    def asked(self) -> tuple[Tensor, Slots, Tiles, Tensor, bool, int, Tensor]:
        """What attend is called with, for every tile."""
        return self.q, self.slots, self.tiles, self.pool, self.sliding, self.window, self.tiles.everyone

    def exact(self, tile: int) -> Tensor:
        """A tile's rows that are there, as a softmax over its whole text in float64: (rows, heads * head_dim)."""
        slot, canvas, start, rows, _, _ = self.tiles.table[tile, :6].tolist()
        keys, values = self.keys_values[slot][:, : start + rows].double()
        row, key = torch.arange(start, start + rows)[:, None], torch.arange(start + rows)
        visible = torch.ones(rows, start + rows, dtype=torch.bool) if canvas else key <= row
        if self.sliding:
            visible = visible & (key > (start if canvas else row) - self.window)
        groups = self.shape.heads // self.shape.kv_heads
        q = self.q[tile * self.shape.tile_rows :][:rows].double()
        scores = torch.einsum("rhd,khd->hrk", q, keys.repeat_interleave(groups, 1))
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        return torch.einsum("hrk,khd->rhd", weights, values.repeat_interleave(groups, 1)).flatten(1)

    def there(self, tile: int) -> slice:
        """The rows of M that are no padding."""
        first = tile * self.shape.tile_rows
        return slice(first, first + int(self.tiles.table[tile, Of.ROWS]))


def _tiles(rows: list[list[int]], chunks: int, capacity: int, tile_rows: int) -> Tiles:
    table = torch.full((capacity, 8), 2**30, dtype=torch.int32)  # who reads a tile that is not there runs far off
    for at, row in enumerate(rows):
        table[at, : len(row)] = torch.tensor(row)
    spans = torch.tensor([[0, len(rows), 0, 0], [chunks, len(rows), 0, 0]], dtype=torch.int32) * tile_rows
    nothing = torch.empty(0)
    return Tiles(table, nothing, spans, nothing)


def _slots(numbers: Tensor, pages: Tensor) -> Slots:
    nothing = torch.empty(0)
    return Slots(numbers, *[nothing] * 2, pages, *[nothing] * 8)
