"""All tensors that a step reads and writes beside weights. They are made once, for graphs know their addresses."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from dgbatch.engine.device_step.tile_count import most_tiles, tile_rows
from dgbatch.engine.kernels.tables import Frame, Number, Real, Slots, Tiles, Told
from dgbatch.engine.kv_cache import page_shape
from dgbatch.engine.model.config import ModelConfig

TABLE_COLUMNS = 8  # those of Of, and room to a vector
ALIGNED = 64  # words: every part of the arena begins at 256 bytes, for loads of 16 bytes a thread


@dataclass(frozen=True, slots=True)
class State:
    """The sequences in flight, room for a pass of any size, and the pages."""

    slots: Slots
    arena: (
        Tensor  # (words,) int32: what the host may write of the slots lies in it, so that one copy carries all orders
    )
    said: Tensor  # (words,) int32: `told` and then `frames` of all slots: one copy of them too
    pools: list[Tensor]  # by layer: (P + S, 2, kv_heads, C, head_dim)
    table: Tensor  # (most tiles, 8)
    temperature: Tensor
    spans: Tensor
    of_slot: Tensor

    def tiles(self, count: int) -> Tiles:
        """Room for so many, the same memory for each count."""
        return Tiles(self.table[:count], self.temperature[:count], self.spans, self.of_slot)


def make_state(
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    canvases: int,
    prefill_tiles: int,
    pages: tuple[int, int],
    end_ids: Collection[int],
) -> State:
    """pages: of clean text, in the pools of full and of sliding layers; a page more for each canvas comes on top.

    Nothing is left uninitialised: a masked row times zero would still be no number if it held none.
    """
    rows, length = tile_rows(config.canvas_length), config.canvas_length
    shapes = {
        "numbers": (canvases, len(Number)),
        "reals": (canvases, len(Real)),
        "text": (canvases, config.max_positions),
        "pages": (2, canvases, -(-config.max_positions // length) + 1),
        "canvas": (canvases, rows),
        "argmax": (canvases, rows),
        "first_accepted": (canvases, rows),
    }
    arena = torch.zeros(_words(shapes), dtype=torch.int32, device=device)
    parts = _parts(arena, shapes)
    said = torch.zeros(_words(_said_shapes(canvases, rows)), dtype=torch.int32, device=device)
    told, frames = said_parts(said, canvases, rows)
    slots = Slots(
        numbers=parts["numbers"],
        reals=parts["reals"].view(torch.float32),
        text=parts["text"],
        pages=parts["pages"],
        canvas=parts["canvas"],
        argmax=parts["argmax"],
        first_accepted=parts["first_accepted"],
        soft=torch.zeros(canvases, rows, config.hidden, dtype=dtype, device=device),
        allowed=torch.ones(canvases, config.vocab_size, dtype=torch.int8, device=device),
        # no tensor is empty: -1 is nobody's id
        end_ids=torch.tensor(sorted(end_ids) or [-1], dtype=torch.int32, device=device),
        told=told,
        frames=frames,
    )
    most = most_tiles(canvases, prefill_tiles)
    pools = [
        torch.zeros(pages[kind.sliding] + canvases, *page_shape(config, kind), dtype=dtype, device=device)
        for kind in config.layers
    ]
    return State(
        slots=slots,
        arena=arena,
        said=said,
        pools=pools,
        table=torch.zeros(most, TABLE_COLUMNS, dtype=torch.int32, device=device),
        temperature=torch.ones(most, device=device),
        spans=torch.zeros(2, 4, dtype=torch.int32, device=device),
        of_slot=torch.zeros(canvases, 2, dtype=torch.int32, device=device),
    )


def said_parts(said: Tensor, canvases: int, rows: int) -> tuple[Tensor, Tensor]:
    """Slots.told and Slots.frames in one tensor of words, or in a copy of it."""
    parts = _parts(said, _said_shapes(canvases, rows))
    return parts["told"], parts["frames"]


def _said_shapes(canvases: int, rows: int) -> dict[str, tuple[int, ...]]:
    return {"told": (canvases, len(Told)), "frames": (canvases, len(Frame), rows)}


def _words(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(_padded(shape) for shape in shapes.values())


def _parts(arena: Tensor, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    parts, first = {}, 0
    for name, shape in shapes.items():
        parts[name] = arena[first : first + prod(shape)].view(shape)
        first += _padded(shape)
    return parts


def _padded(shape: tuple[int, ...]) -> int:
    return -(-prod(shape) // ALIGNED) * ALIGNED
