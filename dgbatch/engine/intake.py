"""From an iterable of prompts to sequences that are ready to be admitted: asked lazily, tokenized, checked."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from dgbatch.engine.pages import Pages
from dgbatch.engine.scheduler import Scheduler
from dgbatch.engine.sequence import Sequence, chunks_of
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.errors import RowError
from dgbatch.records import Prompt, Settings


class Source:
    """An iterable of prompts, asked one at a time."""

    def __init__(self, prompts: Iterable[Prompt | None]):
        self.exhausted = False
        self._prompts = iter(prompts)

    def next(self) -> Prompt | None:
        """None when there is none, or none now."""
        if self.exhausted:
            return None
        try:
            return next(self._prompts)
        except StopIteration:
            self.exhausted = True
            return None


class Intake:
    """What one engine can take: its tokenizer, its model's sizes, its memory."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        defaults: Settings,
        end_ids: frozenset[int],
        canvas_length: int,
        max_positions: int,
        vocab_size: int,
        max_prompt_tokens: int | None,
    ):
        self.tokenizer = tokenizer
        self.defaults = defaults
        self.end_ids = end_ids
        self.canvas_length = canvas_length
        self.max_positions = max_positions
        self.vocab_size = vocab_size
        self.max_prompt_tokens = min(max_positions - canvas_length, max_prompt_tokens or max_positions)

    def sequence(self, prompt: Prompt, scheduler: Scheduler, pages: Pages) -> Sequence:
        """A prompt's tokens and settings, checked against what the model and the memory can hold. Raises RowError."""
        settings = prompt.generation.or_else(self.defaults)
        length, limit = self.canvas_length, self.max_prompt_tokens
        prompt_ids = self.tokenizer.encode_chat(prompt.messages, prompt.thinking)
        if not prompt_ids:
            raise RowError("empty_prompt", "the chat template made no tokens of the messages")
        if len(prompt_ids) > limit:
            raise RowError(
                "prompt_too_long", f"the prompt has {len(prompt_ids)} tokens, at most {limit} fit beside a canvas"
            )
        if settings.suppress_tokens:
            self._check_suppressed(settings.suppress_tokens)
        room = (self.max_positions - len(prompt_ids)) // length * length
        settings = replace(settings, max_new_tokens=min(settings.max_new_tokens, room))
        sequence = Sequence(prompt, settings, prompt_ids, self.end_ids, chunks_of(prompt_ids, length))
        sequence.began_at = time.perf_counter()
        need = scheduler.need(sequence)
        if not pages.fits(need):
            raise RowError(
                "out_of_kv_memory",
                f"{len(prompt_ids)} prompt tokens and {settings.max_new_tokens} new ones need {need[0]} pages of "
                f"{length} tokens, and {pages.full.size} fit the memory for keys and values",
            )
        return sequence

    def _check_suppressed(self, ids: tuple[int, ...]) -> None:
        """Raises RowError for an id that is no token's, and where none is left to write."""
        if unknown := [id for id in ids if not 0 <= id < self.vocab_size]:
            raise RowError(
                "bad_generation",
                f"suppress_tokens has the id {unknown[0]}; those of this checkpoint go from 0 to "
                f"{self.vocab_size - 1:,}",
            )
        if len({*ids, *self.tokenizer.never_emitted(self.end_ids)}) >= self.vocab_size:
            raise RowError("bad_generation", "suppress_tokens leaves no token to write")
