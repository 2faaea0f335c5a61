"""Slots and tiles for tests of single operations: a few tiles at work, each of a kind of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from dgbatch.engine.kernels.tables import Frame, Number, Of, Real, Slots, Tiles, Told

TEXT, CHUNKS = 40, 5


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def make_slots(count: int, rows: int, vocab: int, hidden: int, dtype: torch.dtype = torch.float32) -> Slots:
    """Slots full of random tokens; page numbers are distinct, those of sliding layers backwards."""
    generator = torch.Generator().manual_seed(count)
    ids = [torch.randint(vocab, (count, size), dtype=torch.int32, generator=generator) for size in (TEXT, rows)]
    pages = torch.arange(count * CHUNKS, dtype=torch.int32).view(count, CHUNKS)
    return Slots(
        numbers=torch.zeros(count, len(Number), dtype=torch.int32),
        reals=torch.zeros(count, len(Real)),
        text=ids[0],
        pages=torch.stack([pages, pages.flip(0, 1)]),
        canvas=ids[1],
        argmax=torch.full((count, rows), -1, dtype=torch.int32),
        first_accepted=torch.full((count, rows), -1, dtype=torch.int32),
        soft=random(count, rows, hidden, dtype=dtype),
        allowed=torch.ones(count, vocab, dtype=torch.int8),
        end_ids=torch.zeros(1, dtype=torch.int32),
        told=torch.zeros(count, len(Told), dtype=torch.int32),
        frames=torch.zeros(count, len(Frame), rows, dtype=torch.int32),
    )


def chunk(slot: int, start: int, rows: int, number: int) -> dict[Of, int]:
    return {Of.SLOT: slot, Of.START: start, Of.ROWS: rows, Of.CHUNK: number}


def canvas(slot: int, start: int, rows: int, number: int, first: bool = False) -> dict[Of, int]:
    return chunk(slot, start, rows, number) | {Of.CANVAS: 1, Of.FIRST: int(first)}


def make_tiles(
    rows: int, *lines: dict[Of, int], slots: int = 4, idle: int = 0, span: tuple[int, int] | None = None
) -> Tiles:
    """Tiles at work, chunks first, then `idle` ones whose table holds what no operation may read or follow.

    span: rows at work, where not all rows of `lines` are
    """
    table = torch.full((len(lines) + idle, 8), 1 << 30, dtype=torch.int32)
    table[:, Of.CANVAS] = 0  # clean text, whose page would have to be looked up
    for number, line in enumerate(lines):
        table[number] = 0
        for column, value in line.items():
            table[number, column] = value
    chunks = sum(not line.get(Of.CANVAS) for line in lines)
    spans = torch.zeros(2, 4, dtype=torch.int32)
    spans[0, :2] = torch.tensor(span or (0, len(lines) * rows))
    spans[1, :2] = torch.tensor([chunks * rows, len(lines) * rows])
    of_slot = torch.zeros(slots, 2, dtype=torch.int32)
    return Tiles(table=table, temperature=torch.ones(len(table)), spans=spans, of_slot=of_slot)


def span(first: int, end: int) -> Tensor:
    return torch.tensor([first, end], dtype=torch.int32)
