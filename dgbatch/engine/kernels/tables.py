"""What a step reads and writes besides weights: slots and tiles, all of it on the device.

A slot is a place for one sequence in flight. A tile is `tile_rows` rows of one sequence in one pass: a chunk of clean
text on its way into the KV cache, or a canvas. Tiles at work come first, chunks before canvases, so the rows at work
are one span and the rows of canvases another. Axis words: S slots, T tiles, R rows of a tile (canvas_length rounded up
to a multiple of 64), M = T * R rows, C canvas_length, V vocabulary, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

ROW_QUANTUM = 64  # a tile's rows are a multiple of it: the fewest rows of a tensor-core product on Hopper
HEAD_COLUMNS = 128  # tokens of the vocabulary in one column tile of the head


class Number(IntEnum):
    """Columns of Slots.numbers."""

    RUNNING = 0  # 0: nobody is here
    PROMPT = 1  # tokens of the prompt
    TEXT = 2  # tokens of clean text so far: the prompt and settled canvases
    ENCODED = 3  # of those, how many have their keys and values in pages
    CHUNKS = 4  # how many chunks those are: one page each
    GRANTED = 5  # chunks that have a page to go to
    CANVAS = 6  # number of the canvas being denoised
    STEP = 7  # denoising steps it has had
    STILL = 8  # of those, how many in a row left the argmax as it was
    WRITTEN = 9  # tokens of settled canvases
    KEY_LOW = 10  # the two words of the noise key, bits of an unsigned number
    KEY_HIGH = 11
    MAX_STEPS = 12
    STABILITY = 13
    GREEDY = 14
    MAX_NEW = 15  # tokens to write at most


class Real(IntEnum):
    """Columns of Slots.reals."""

    TEMPERATURE_START = 0
    TEMPERATURE_END = 1
    ENTROPY_BOUND = 2
    CONFIDENCE = 3


class Of(IntEnum):
    """Columns of Tiles.table."""

    SLOT = 0
    CANVAS = 1  # 1: a canvas; 0: clean text
    START = 2  # position of its first row
    ROWS = 3  # rows that are there; the others are padding
    CHUNK = 4  # number of its chunk: where a canvas's keys and values would go, were they kept
    FIRST = 5  # 1: a canvas that had no step yet, so that nothing is believed about it


class Told(IntEnum):
    """Columns of Slots.told before its frame: what a step says to the host about a slot."""

    DENOISED = 0  # 1: its canvas was in this step; all that follows is of this step
    SETTLED = 1
    FINISH = 2  # 0: it goes on, 1: end of turn, 2: length
    CANVAS = 3  # number of the canvas
    STEP = 4  # steps it has had, this one included
    UNCHANGED = 5  # 1: the argmax is that of the step before
    MEAN_ENTROPY = 6  # bits of a float32, nats
    ENCODED = 7  # tokens in pages after this step


class Frame(IntEnum):
    """Rows of Slots.frames: a canvas after a step."""

    TOKENS = 0  # the next step's canvas; of one that settled, what it would have been
    ARGMAX = 1
    ACCEPTED = 2
    ENTROPY = 3  # bits of a float32, nats
    FIRST_ACCEPTED = 4  # the token that each position was first sure of; -1 where never


@dataclass(frozen=True, slots=True)
class Slots:
    """The sequences in flight."""

    numbers: Tensor  # (S, 16) int32, columns of Number
    reals: Tensor  # (S, 4) float32, columns of Real
    text: Tensor  # (S, longest text) int32: prompt and settled canvases
    pages: Tensor  # (2, S, most chunks) int32: the page of each chunk, of full layers and of sliding ones
    canvas: Tensor  # (S, R) int32
    argmax: Tensor  # (S, R) int32; -1: nothing is believed yet
    first_accepted: Tensor  # (S, R) int32; -1: never
    soft: Tensor  # (S, R, H) in the weights' dtype: what the last step believed, as a mean embedding
    allowed: Tensor  # (S, V) int8; 0: this token is never written
    end_ids: Tensor  # (any,) int32: tokens that end a turn
    told: Tensor  # (S, 8) int32, columns of Told
    frames: Tensor  # (S, 5, R) int32, rows of Frame

    @property
    def device(self) -> torch.device:
        return self.numbers.device


@dataclass(frozen=True, slots=True)
class Tiles:
    """What a pass computes; written by plan_tiles at its start."""

    table: Tensor  # (T, 8) int32, columns of Of; tiles at work come first, chunks before canvases
    temperature: Tensor  # (T,) float32, of canvases
    spans: Tensor  # (2, 4) int32: [first, end) of all rows at work, and of the rows of canvases
    of_slot: Tensor  # (S, 2) int32: a slot's canvas among the canvases of this pass, or -1; its chunks in this pass

    @property
    def device(self) -> torch.device:
        return self.table.device

    @property
    def everyone(self) -> Tensor:
        """(2,) int32: the rows at work."""
        return self.spans[0, :2]

    @property
    def canvases(self) -> Tensor:
        """(2,) int32: the rows of canvases."""
        return self.spans[1, :2]
