"""What the host puts into slots: who sits there, pages, an early stop. One copy a step carries all of it.

Orders are words of the arena. They lie in the stream between two steps, so no step sees half of one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from collections.abc import Sequence as Many

import torch
from torch import Tensor

from dgbatch.engine.device_step.grants import Grant
from dgbatch.engine.device_step.state import State
from dgbatch.engine.kernels.tables import Number, Real
from dgbatch.engine.noise import split_key
from dgbatch.engine.sequence import Sequence
from dgbatch.records import Settings

LARGEST = 2**31 - 1  # an int32


class Orders:
    """Collects orders, and sends them in front of the next step."""

    def __init__(self, state: State, banned: Collection[int]):
        """banned: ids that are never drawn and never settle, for everybody."""
        self._state = state
        self._words: dict[int, int] = {}  # by place in the arena; the last order for a place counts
        self._allowed = torch.ones_like(state.slots.allowed[0])
        self._allowed[sorted(banned)] = 0
        state.slots.allowed[:] = self._allowed
        self._suppressed: list[tuple[int, ...]] = [()] * len(state.slots.numbers)
        self._changed: dict[int, tuple[int, ...]] = {}

    def seat(self, sequence: Sequence, noise: Many[int]) -> None:
        """A sequence takes its slot: its prompt, its settings, and the noise that its first canvas begins with."""
        slot, slots, settings = sequence.slot, self._state.slots, sequence.settings
        low, high = split_key(sequence.prompt.noise_key)
        numbers = dict.fromkeys(Number, 0) | {
            Number.RUNNING: 1,
            Number.PROMPT: len(sequence.prompt_ids),
            Number.TEXT: len(sequence.prompt_ids),
            Number.KEY_LOW: signed(low),
            Number.KEY_HIGH: signed(high),
            Number.MAX_STEPS: min(settings.max_denoising_steps, LARGEST),
            Number.STABILITY: min(settings.stability, LARGEST),
            Number.GREEDY: int(settings.greedy),
            Number.MAX_NEW: settings.max_new_tokens,
        }
        self._put(slots.numbers[slot], [numbers[column] for column in Number])
        self._put(slots.reals[slot], bits_of(reals_of(settings)))
        self._put(slots.text[slot], sequence.prompt_ids)
        rows = slots.canvas.shape[1]
        self._put(slots.canvas[slot], [*noise, *[0] * (rows - len(noise))])
        self._put(slots.argmax[slot], [-1] * rows)
        self._put(slots.first_accepted[slot], [-1] * rows)
        if settings.suppress_tokens != self._suppressed[slot]:
            self._suppressed[slot] = self._changed[slot] = settings.suppress_tokens

    def grant(self, grant: Grant) -> None:
        """Pages for chunks to come, and for a prompt how much of it is in pages already."""
        numbers, pages = self._state.slots.numbers[grant.slot], self._state.slots.pages
        for kind, granted in enumerate(zip(*grant.pages, strict=True)):
            self._put(pages[kind, grant.slot, grant.first :], granted)
        self._put(numbers[Number.GRANTED], [grant.granted])
        if grant.encoded is not None:
            chunks, tokens = grant.encoded
            self._put(numbers[Number.CHUNKS], [chunks])
            self._put(numbers[Number.ENCODED], [tokens])

    def stop(self, slot: int) -> None:
        """Nobody is there any more."""
        self._put(self._state.slots.numbers[slot, Number.RUNNING], [0])

    def send(self) -> None:
        """All of it, into the stream."""
        slots = self._state.slots
        for slot, suppressed in self._changed.items():
            slots.allowed[slot] = self._allowed
            if suppressed:
                slots.allowed[slot].index_fill_(0, self._carried(suppressed), 0)
        if self._words:
            places, values = self._carried(self._words.keys(), self._words.values())
            self._state.arena.index_copy_(0, places, values.int())
        self._changed.clear()
        self._words.clear()

    def _put(self, part: Tensor, values: Iterable[int]) -> None:
        first = int(part.storage_offset())
        self._words.update(enumerate(values, first))

    def _carried(self, *columns: Iterable[int]) -> Tensor:
        """int64, on the device once the stream is there. (values,) of one column, (columns, values) of more."""
        values = torch.tensor([list(column) for column in columns]).squeeze(0)
        device = self._state.arena.device
        if device.type != "cuda":
            return values
        # torch hands a pinned block out again only when the copy that reads it is done, whoever drops it before.
        return values.pin_memory().to(device, non_blocking=True)


def reals_of(settings: Settings) -> list[float]:
    by_column = {
        Real.TEMPERATURE_START: settings.temperature_start,
        Real.TEMPERATURE_END: settings.temperature_end,
        Real.ENTROPY_BOUND: settings.entropy_bound,
        Real.CONFIDENCE: settings.confidence,
    }
    return [by_column[column] for column in Real]


def signed(word: int) -> int:
    """The int32 with the bits of an unsigned word."""
    return word - (1 << 32) if word >> 31 else word


def bits_of(values: list[float]) -> list[int]:
    """The int32 with the bits of each, rounded to float32."""
    return torch.tensor(values, dtype=torch.float32).view(torch.int32).tolist()
