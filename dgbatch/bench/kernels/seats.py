"""Who is at work in a pass that is made up: slots, tiles and pages that fit each other, without an engine.

What the operations may not read holds what would show: NaN in soft embeddings of a canvas that had no step, -1 for
pages that nobody was given and for text that is not written yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dgbatch.engine.kernels.tables import ROW_QUANTUM, Number, Of, Slots, Tiles
from dgbatch.roofline import Shape

TEMPERATURES, STEPS = (0.8, 0.4), 48  # as the model's own generation_config has them
ENTROPY_BOUND, CONFIDENCE = 0.1, 0.005
END_IDS = (1, 2)


def tile_rows(canvas: int) -> int:
    return -(-canvas // ROW_QUANTUM) * ROW_QUANTUM


@dataclass(frozen=True, slots=True)
class Seat:
    """One sequence in flight: its text, and what of it is in this pass."""

    prompt: int  # tokens
    settled: int = 0  # canvases that are text by now
    chunks: int = 0  # of its text that this pass encodes: the last ones, but for `later`
    canvas: bool = True  # whether its canvas is in this pass
    step: int = 3  # steps that its canvas has had
    later: int = 0  # chunks of its text that have no page to go to yet

    def geometry(self, length: int) -> list[tuple[int, int]]:
        """First position and tokens of each chunk of its text."""
        prompt = [(first, min(length, self.prompt - first)) for first in range(0, self.prompt, length)]
        return prompt + [(self.prompt + number * length, length) for number in range(self.settled)]


@dataclass(frozen=True)
class Company:
    """A pass: its seats (None is a slot where nobody is), and how many tiles it has room for."""

    seats: tuple[Seat | None, ...]
    length: int  # canvas_length
    room: int = 0  # tiles; 0: as many as there are

    @classmethod
    def of(cls, shape: Shape, canvases: int, chunks: int = 0, prefix: int = 1024, room: int = 0) -> Company:
        """So many canvases after `prefix` tokens each, and so many chunks that come after as many."""
        deciding = (Seat(prefix),) * canvases
        settled = (Seat(prefix, settled=1, chunks=1, canvas=False),) * chunks
        return cls(deciding + settled, shape.canvas, room)

    @property
    def tile_rows(self) -> int:
        return tile_rows(self.length)

    @cached_property
    def table(self) -> list[list[int]]:
        """Tiles at work as rows of Tiles.table: chunks before canvases."""
        tiles = []
        for slot, seat in self._seated():
            geometry = seat.geometry(self.length)
            last = len(geometry) - seat.later
            new = range(last - seat.chunks, last)
            tiles += [[slot, 0, *geometry[chunk], chunk, 0, 0, 0] for chunk in new]
        for slot, seat in self._seated():
            if seat.canvas:
                start, chunk = seat.prompt + seat.settled * self.length, len(seat.geometry(self.length))
                tiles.append([slot, 1, start, self.length, chunk, int(seat.step == 0), 0, 0])
        return tiles

    @property
    def canvases(self) -> int:
        return sum(tile[Of.CANVAS] for tile in self.table)

    @property
    def tiles(self) -> int:
        """Room for them."""
        return max(self.room, len(self.table))

    @property
    def canvas_room(self) -> int:
        """How many tiles may be canvases: no more than there are slots."""
        return min(self.tiles, len(self.seats))

    @property
    def rows(self) -> int:
        """M: rows of all tiles there is room for."""
        return self.tiles * self.tile_rows

    @property
    def span(self) -> int:
        """Rows at work, padding of tiles included."""
        return len(self.table) * self.tile_rows

    @property
    def tokens(self) -> int:
        """Rows at work without padding."""
        return sum(tile[Of.ROWS] for tile in self.table)

    @property
    def true_rows(self) -> list[int]:
        """Rows at work without padding, by number."""
        size = self.tile_rows
        return [place * size + row for place, tile in enumerate(self.table) for row in range(tile[Of.ROWS])]

    @property
    def true_canvas_rows(self) -> list[int]:
        """The same of canvases, counted from the first canvas on."""
        return [number * self.tile_rows + row for number in range(self.canvases) for row in range(self.length)]

    @property
    def pages(self) -> int:
        """Each chunk of each text has a page of its own; one page belongs to nobody."""
        return 1 + sum(len(seat.geometry(self.length)) for _, seat in self._seated())

    def seen(self, tile: list[int], window: int | None) -> int:
        """How many keys the rows of a tile look at, of all pages together; window None: all of them.

        A chunk's rows see less than that, each its own part.
        """
        before = tile[Of.START] if window is None else min(tile[Of.START], window - 1)
        return before + tile[Of.ROWS]

    def slots(self, vocab: int, soft: Tensor, seed: int = 0) -> Slots:
        """As after the step before. soft: (slots, tile rows, hidden), on the device that all of it goes to."""
        device, made = soft.device, torch.Generator().manual_seed(seed)
        count, rows = len(self.seats), self.tile_rows
        chunks = max((len(seat.geometry(self.length)) for _, seat in self._seated()), default=0)
        numbers, reals = torch.zeros(count, 16, dtype=torch.int32), torch.zeros(count, 4)
        text = torch.full((count, (chunks + 2) * self.length), -1, dtype=torch.int32)
        pages = torch.full((2, count, chunks + 2), -1, dtype=torch.int32)
        free = [torch.randperm(self.pages, generator=made, dtype=torch.int32).tolist() for _ in range(2)]
        for slot, seat in self._seated():
            geometry = seat.geometry(self.length)
            own = len(geometry) - seat.later
            length = seat.prompt + seat.settled * self.length
            encoded = sum(tokens for _, tokens in geometry[: own - seat.chunks])
            values = {
                Number.RUNNING: 1, Number.PROMPT: seat.prompt, Number.TEXT: length, Number.ENCODED: encoded,
                Number.CHUNKS: own - seat.chunks, Number.GRANTED: own, Number.CANVAS: seat.settled,
                Number.STEP: seat.step, Number.WRITTEN: seat.settled * self.length,
                Number.KEY_LOW: -7 * slot - 1, Number.KEY_HIGH: 13 * slot + 5, Number.MAX_STEPS: STEPS,
                Number.STABILITY: 1, Number.MAX_NEW: 1 << 20,
            }  # fmt: skip
            for column, value in values.items():
                numbers[slot, column] = value
            reals[slot] = torch.tensor([*TEMPERATURES, ENTROPY_BOUND, CONFIDENCE])  # in the order of Real
            text[slot, :length] = torch.randint(0, vocab, (length,), generator=made, dtype=torch.int32)
            for kind in range(2):
                taken, free[kind] = free[kind][:own], free[kind][own:]
                pages[kind, slot, :own] = torch.tensor(taken, dtype=torch.int32)
        tokens = torch.randint(0, vocab, (2, count, rows), generator=made, dtype=torch.int32)
        allowed = torch.empty(count, vocab, dtype=torch.int8, device=device)
        if device.type != "meta":
            allowed.copy_(torch.rand(count, vocab, generator=made) >= 0.02)
        for slot, seat in self._seated():
            if seat.step == 0:
                soft[slot] = float("nan")  # no step, no belief: nobody may read it
        return Slots(
            numbers.to(device),
            reals.to(device),
            text.to(device),
            pages.to(device),
            canvas=tokens[0].to(device),
            argmax=tokens[1].to(device),
            first_accepted=torch.full((count, rows), -1, dtype=torch.int32, device=device),
            soft=soft,
            allowed=allowed,
            end_ids=torch.tensor(END_IDS, dtype=torch.int32, device=device),
            told=torch.zeros(count, 8, dtype=torch.int32, device=device),
            frames=torch.zeros(count, 5, rows, dtype=torch.int32, device=device),
        )

    def laid(self, device: str | torch.device = "cpu") -> Tiles:
        """What plan_tiles makes of these seats."""
        start, end = TEMPERATURES
        table = torch.zeros(self.tiles, 8, dtype=torch.int32)
        temperature = torch.ones(self.tiles)
        of_slot = torch.tensor([[-1, 0]] * len(self.seats), dtype=torch.int32)
        first = len(self.table) - self.canvases
        for place, tile in enumerate(self.table):
            table[place] = torch.tensor(tile, dtype=torch.int32)
            seat = self.seats[tile[Of.SLOT]]
            assert seat is not None
            if tile[Of.CANVAS]:
                temperature[place] = end + (start - end) * (STEPS - seat.step) / STEPS
                of_slot[tile[Of.SLOT], 0] = place - first
            else:
                of_slot[tile[Of.SLOT], 1] += 1
        spans = torch.zeros(2, 4, dtype=torch.int32)
        spans[0, 1] = spans[1, 1] = self.span
        spans[1, 0] = first * self.tile_rows
        return Tiles(table.to(device), temperature.to(device), spans.to(device), of_slot.to(device))

    def _seated(self) -> Iterator[tuple[int, Seat]]:
        return ((slot, seat) for slot, seat in enumerate(self.seats) if seat is not None)
