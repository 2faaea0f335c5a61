"""What the host gives to the device ahead of time: pages. Knows no torch.

Chunks of prompts get their pages in the pass that computes them, as `Scheduler.plan` says. A canvas settles when the
device finds that it does, and its text is in the next pass before the host hears of it; so the pages for the next two
canvases of a sequence are given in advance. A text without a page waits, and its sequence with it.

Why no page is taken from a step that still reads it: the passes run in the order in which they were launched, so what
the host gives away now is written after every pass that is with the device. And a page leaves the window of a sequence
only when no row can see it that comes after the text which the host *knows* to be in pages: what it has given pages for
is at most AHEAD canvases longer, and `Pages` is told to keep as many pages more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dgbatch.engine.device_step.tile_count import tile_count
from dgbatch.engine.pages import Pages
from dgbatch.engine.scheduler import Scheduler
from dgbatch.engine.sequence import Sequence

AHEAD = 2  # canvases: one may be on its way into its page while the next one settles
NEAR = 10.0  # times its confidence: a canvas of so little entropy may settle in the next steps


@dataclass(slots=True)
class Known:
    """What the host knows of a sequence in flight: what it has given, and what it was last told."""

    prompt: int  # tokens
    prompt_chunks: int
    most_chunks: int  # its last canvas is never encoded
    granted: int = 0  # chunks that have pages
    encoded: int = 0  # tokens in pages
    ending: bool = False  # its canvas may settle soon, or has


@dataclass(frozen=True, slots=True)
class Grant:
    """For one slot: pages of chunks `first` and on, and how much of its prompt is in pages before this pass."""

    slot: int
    first: int
    pages: list[tuple[int, int]]  # full and sliding
    granted: int
    encoded: tuple[int, int] | None  # chunks and tokens; None where only the device knows


@dataclass(frozen=True, slots=True)
class Turn:
    """One pass, as far as the host decides it."""

    tiles: int
    grants: list[Grant] = field(default_factory=list)
    prompt_tiles: int = 0
    prompt_tokens: int = 0  # in those
    canvases: list[Sequence] = field(default_factory=list)  # that are or may be at work


class Grants:
    """Owns what the host knows of each sequence in flight."""

    def __init__(self, pages: Pages, canvas_length: int, fold: bool):
        self._pages = pages
        self._length = canvas_length
        self._fold = fold
        self._known: dict[Sequence, Known] = {}

    def admit(self, sequence: Sequence) -> None:
        chunks = len(sequence.pending)
        canvases = -(-sequence.settings.max_new_tokens // self._length)
        ending = sequence.settings.max_denoising_steps <= AHEAD
        self._known[sequence] = Known(len(sequence.prompt_ids), chunks, chunks + canvases - 1, ending=ending)

    def retire(self, sequence: Sequence) -> None:
        del self._known[sequence]

    def turn(self, scheduler: Scheduler) -> Turn:
        """Give pages for the next pass."""
        tiles = scheduler.plan()
        encoding = [tile for tile in tiles if tile.causal]
        canvases = [tile.sequence for tile in tiles if not tile.causal]
        grants = []
        for sequence in scheduler.flight:
            own = sum(tile.sequence is sequence for tile in encoding)
            if grant := self._grant(sequence, own):
                grants.append(grant)
        ending = sum(self._known[sequence].ending for sequence in canvases)
        room = tile_count(len(encoding), len(canvases), ending, self._fold)
        return Turn(room, grants, len(encoding), sum(tile.rows for tile in encoding), canvases)

    def told(self, sequence: Sequence, encoded: int, settled: bool, mean_entropy: float) -> int:
        """A step is read; returns the settled canvases that it put into pages.

        encoded: tokens in pages after it; mean_entropy: of the sequence's canvas, nats; infinite where it had no step
        """
        known, settings = self._known[sequence], sequence.settings
        before, known.encoded = max(known.encoded, known.prompt), encoded
        last = sequence.step + AHEAD >= settings.max_denoising_steps
        known.ending = settled or last or mean_entropy < NEAR * settings.confidence
        return max(0, encoded - before) // self._length

    def _grant(self, sequence: Sequence, prompt_tiles: int) -> Grant | None:
        lease, known = sequence.lease, self._known[sequence]
        assert lease
        first, encoded = known.granted, None
        if first < known.prompt_chunks:  # only the host moves a prompt on, so it knows how far it is
            chunks = len(lease.full) - prompt_tiles
            encoded = chunks, min(chunks * self._length, known.prompt)
        if len(lease.full) >= known.prompt_chunks:
            committed = max(0, known.encoded - known.prompt) // self._length
            while len(lease.full) < min(known.most_chunks, known.prompt_chunks + committed + AHEAD):
                self._pages.append(lease, (0,) * self._length, keep=False)  # whatever its tokens will be
        known.granted = len(lease.full)
        if first == known.granted:
            return None
        slid = known.granted - len(lease.sliding)  # chunks behind the window, which nobody reads any more
        pages = [
            (lease.full[chunk].number, lease.sliding[chunk - slid].number if chunk >= slid else 0)
            for chunk in range(first, known.granted)
        ]
        return Grant(sequence.slot, first, pages, known.granted, encoded)
