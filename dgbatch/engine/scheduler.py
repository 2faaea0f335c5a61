"""Which tiles share the next forward pass. Knows no torch.

A tile is a piece of clean text on its way into the KV cache (causal) or a canvas being denoised. A sequence that
finishes leaves at once and the next one takes its place, so no canvas waits for another; a long prompt goes in a few
tiles a pass, beside the canvases of the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from dgbatch.engine.pages import Chunk, Pages, View
from dgbatch.engine.sequence import Sequence


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """Consecutive positions of one sequence in one forward pass."""

    sequence: Sequence
    start: int  # position of its first row
    rows: int
    full: View  # what its rows see before `start`, on full layers
    sliding: View
    chunk: Chunk = ()  # clean text to encode; empty for a canvas
    pages: tuple[int, int] = (-1, -1)  # full and sliding page that its keys and values go to; a canvas's go nowhere

    @property
    def causal(self) -> bool:
        return bool(self.chunk)


def prefill_ratio(tiles: Collection[Tile]) -> float:
    """The share of rows that encode clean text."""
    causal = sum(tile.rows for tile in tiles if tile.causal)
    return causal / sum(tile.rows for tile in tiles) if causal else 0.0


class Scheduler:
    """Fills each pass with tiles of the sequences in flight, first come first served."""

    def __init__(self, pages: Pages, canvases: int, canvas_length: int, prefill_tiles: int, fold: bool = True):
        """prefill_tiles: tiles of prompts in one pass; fold: whether a canvas may start in the pass that encodes what
        comes before it."""
        self.waiting: deque[Sequence] = deque()
        self.flight: list[Sequence] = []
        self._pages = pages
        self._canvas_length = canvas_length
        self._prefill_tiles = prefill_tiles
        self._fold = fold
        self._slots = list(range(canvases - 1, -1, -1))

    @property
    def room(self) -> int:
        """Sequences that have a place but nobody waits to take it."""
        return max(0, len(self._slots) - len(self.waiting))

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.flight

    def need(self, sequence: Sequence) -> tuple[int, int]:
        """Pages of both pools that a sequence may hold at once; its last canvas is never encoded."""
        canvases = -(-sequence.settings.max_new_tokens // self._canvas_length)
        return self._pages.need(len(sequence.pending) + canvases - 1, self._prefill_tiles)

    def admit(self) -> list[Sequence]:
        """Those that waited and go into flight now: in order, each as soon as there is a place and memory for it."""
        admitted = []
        while self.waiting and self._slots:
            sequence = self.waiting[0]
            sequence.lease = self._pages.lease(self.need(sequence))
            if sequence.lease is None:
                break
            self.waiting.popleft()
            sequence.slot = self._slots.pop()
            self.flight.append(sequence)
            admitted.append(sequence)
        return admitted

    def plan(self) -> list[Tile]:
        """The tiles of the next pass: those that encode first, since canvases of the same pass may follow them."""
        budget = self._prefill_tiles
        context: list[Tile] = []
        canvases: list[Tile] = []
        for place, sequence in enumerate(self.flight):
            assert sequence.lease
            self._pages.slide(sequence.lease)  # the pass that still read these pages is over
            encoded = bool(sequence.pending)
            prefill = not sequence.canvas
            if prefill:  # before its first tile: taking over moves the window on, off pages that a tile would still see
                for _ in range(self._pages.share_prefix(sequence.lease, sequence.pending)):
                    sequence.pending.popleft()
            # a prompt that is too long for this pass leaves some of it to those behind
            behind = any(other.pending and not other.canvas for other in self.flight[place + 1 :])
            share = (budget + 1) // 2 if behind and len(sequence.pending) > budget else budget
            while sequence.pending and (share or not prefill):
                budget -= prefill
                share -= prefill
                context.append(self._encode(sequence, sequence.pending.popleft(), keep=prefill))
            if not sequence.pending and (self._fold or not encoded):
                start, views = sequence.lease.encoded, self._pages.views(sequence.lease)
                canvases.append(Tile(sequence, start, self._canvas_length, *views))
        return context + canvases

    def retire(self, sequence: Sequence) -> None:
        """It is finished: its place and its pages are free."""
        assert sequence.lease
        self.flight.remove(sequence)
        self._slots.append(sequence.slot)
        self._pages.end(sequence.lease)

    def _encode(self, sequence: Sequence, chunk: Chunk, keep: bool) -> Tile:
        assert sequence.lease
        start, views = sequence.lease.encoded, self._pages.views(sequence.lease)
        return Tile(sequence, start, len(chunk), *views, chunk, self._pages.append(sequence.lease, chunk, keep))
