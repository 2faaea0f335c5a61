"""Slots and tiles for tests of what the device decides by itself: small, on a CPU, and nobody in them yet."""

from __future__ import annotations

import torch
from torch import Tensor

from dgbatch.engine import noise
from dgbatch.engine.kernels.tables import Number, Of, Real, Slots, Tiles

ROWS = 64  # of a tile, whatever the canvas has
LONGEST = 400


def empty_slots(
    count: int, vocab: int = 60, hidden: int = 16, dtype: torch.dtype = torch.float32, rows: int = ROWS
) -> Slots:
    return Slots(
        numbers=torch.zeros(count, len(Number), dtype=torch.int32),
        reals=torch.zeros(count, len(Real)),
        text=torch.zeros(count, LONGEST + rows, dtype=torch.int32),
        pages=torch.zeros(2, count, 64, dtype=torch.int32),
        canvas=torch.zeros(count, rows, dtype=torch.int32),
        argmax=torch.full((count, rows), -1, dtype=torch.int32),
        first_accepted=torch.full((count, rows), -1, dtype=torch.int32),
        soft=torch.zeros(count, rows, hidden, dtype=dtype),
        allowed=torch.ones(count, vocab, dtype=torch.int8),
        end_ids=torch.tensor([1, 3], dtype=torch.int32),
        told=torch.zeros(count, 8, dtype=torch.int32),
        frames=torch.zeros(count, 5, rows, dtype=torch.int32),
    )


def empty_tiles(count: int, slots: int) -> Tiles:
    """Filled with numbers that would crash a reader: all of it is plan_tiles' to write."""
    return Tiles(
        table=torch.full((count, 8), 77777, dtype=torch.int32),
        temperature=torch.full((count,), torch.nan),
        spans=torch.full((2, 4), 77777, dtype=torch.int32),
        of_slot=torch.full((slots, 2), 77777, dtype=torch.int32),
    )


def sit_down(slots: Slots, slot: int, key: int = 7, **numbers: int) -> None:
    """Somebody takes a place. numbers: those of Number by their names in small letters."""
    standard = {"running": 1, "prompt": 10, "text": 10, "granted": 64, "max_steps": 16, "stability": 1, "max_new": 1000}
    low, high = noise.split_key(key)
    words = torch.tensor([low, high]).to(torch.int32)
    slots.numbers[slot] = 0
    for name, value in (standard | numbers).items():
        slots.numbers[slot, Number[name.upper()]] = value
    slots.numbers[slot, Number.KEY_LOW], slots.numbers[slot, Number.KEY_HIGH] = words
    slots.reals[slot] = torch.tensor([0.8, 0.4, 0.1, 0.005])


def canvases_only(tiles: Tiles, at_work: list[int], length: int, before: int = 0, rows: int = ROWS) -> None:
    """A pass of `before` tiles of clean text and the canvases of these slots, all at the first temperature."""
    tiles.table.zero_()
    end = before + len(at_work)
    tiles.table[before:end, Of.SLOT] = torch.tensor(at_work, dtype=torch.int32)
    tiles.table[before:end, Of.CANVAS] = 1
    tiles.table[:end, Of.ROWS] = length
    tiles.temperature.fill_(0.8)
    tiles.spans[:, :2] = torch.tensor([[0, end * rows], [before * rows, end * rows]])
    tiles.of_slot[:] = torch.tensor([-1, 0], dtype=torch.int32)
    for place, slot in enumerate(at_work):
        tiles.of_slot[slot, 0] = place


def key_words(slots: Slots, slot: int) -> Tensor:
    """(2,) int64: the key as engine/noise.py wants it."""
    return slots.numbers[slot, [Number.KEY_LOW, Number.KEY_HIGH]].long() & noise.LOW
