"""The loop of plain PyTorch: a step is planned by the host, run, and decided before the next one is planned."""

from __future__ import annotations

import time
from collections.abc import Collection

import torch

from dgbatch.engine import sampler
from dgbatch.engine.canvases import Canvases
from dgbatch.engine.kv_cache import KVCache
from dgbatch.engine.memory import plain_step_bytes
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.pages import Pages
from dgbatch.engine.passes import Passes
from dgbatch.engine.phases import Phases
from dgbatch.engine.scheduler import Scheduler, prefill_ratio
from dgbatch.engine.sequence import Sequence
from dgbatch.engine.settling import settle
from dgbatch.engine.steps import Steps
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.records import EngineConfig, EngineStats


class PlainLoop:
    """What is in flight, and how it is stepped. The engine admits, and retires what `finish` returns."""

    pages_ahead = 0  # given to a text before it is there

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        config: EngineConfig,
        canvases: int,
        pages: tuple[int, int],
        end_ids: Collection[int],
        stats: EngineStats,
        phases: Phases,
    ):
        """pages: of the pools of full and of sliding layers."""
        shape, device = model.config, model.embedding.device
        self.pages = Pages(*pages, shape.canvas_length, shape.sliding_window - 1, config.share_prefixes)
        self.kv = KVCache(shape, *pages, device, model.embedding.dtype)
        self.canvases = Canvases(model, canvases, tokenizer.never_emitted(end_ids))
        self.passes = Passes(model, self.kv, self.canvases)
        self.steps = Steps(self.passes, self.canvases)
        self._tokenizer, self._stats, self._phases = tokenizer, stats, phases

    @staticmethod
    def held_bytes(shape: ModelConfig, dtype: torch.dtype, canvases: int, prefill_tiles: int) -> int:
        """Of the device, beside weights and pages."""
        return plain_step_bytes(shape, canvases)

    def admit(self, sequences: list[Sequence]) -> None:
        self.canvases.lay(sequences)

    def start(self, scheduler: Scheduler) -> None:
        """Hand the next step to the device."""
        tiles, stats = scheduler.plan(), self._stats
        now = time.perf_counter()
        canvases = [tile for tile in tiles if not tile.causal]
        for tile in canvases:
            tile.sequence.denoised_at = tile.sequence.denoised_at or now
        with self._phases.launching(prefill_ratio(tiles)):
            stats.passes += self.steps.start(tiles)
        stats.tiles += len(tiles)
        stats.steps += bool(canvases)
        stats.canvas_tiles += len(canvases)
        stats.prefix_tokens += sum(tile.start for tile in canvases)

    def finish(self) -> list[Sequence]:
        """Decide about the canvases of the step that was started; returns the sequences that are done.

        The argmax of a canvas that settled is emitted. Where that does not end a sequence, it is clean text for the
        next canvas.
        """
        with self._phases.deciding():
            decided = self.steps.finish()
        settled = []
        for sequence, outcome in decided:
            sequence.stepped(outcome.unchanged)
            if sequence.out_of_steps or sampler.is_settled(sequence.still, outcome.mean_entropy, sequence.settings):
                sequence.entropy_sum += outcome.mean_entropy
                settled.append(sequence)
        for sequence in settled:
            ids, first = self.canvases.settled(sequence)
            settle(sequence, ids, first, self._tokenizer, self._stats)
            if not sequence.finish:
                sequence.pending.append(tuple(ids))
        self.canvases.lay([sequence for sequence in settled if not sequence.finish])
        return [sequence for sequence in settled if sequence.finish]

    def leave(self, sequence: Sequence) -> None:
        """It is retired. Nothing of it is kept but what the scheduler knows."""

    def forget(self) -> None:
        """Nobody wants to know what is still with the device."""
