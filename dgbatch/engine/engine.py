"""Prompts in, completions out, on one device. The loop: admit, plan, run, decide, retire."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from dgbatch.engine import sampler
from dgbatch.engine.calibration import SIZES, knee, made_up_steps, measure
from dgbatch.engine.canvases import Canvases
from dgbatch.engine.checkpoint import checksum, resolve
from dgbatch.engine.completion import completion_of
from dgbatch.engine.device import pick_device, pick_dtype
from dgbatch.engine.generation_config import read_generation_config
from dgbatch.engine.intake import Intake, Source
from dgbatch.engine.kv_cache import KVCache
from dgbatch.engine.limits import ceilings
from dgbatch.engine.memory import count_pages, default_budget, holds_all, peak_bytes
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.pages import Pages
from dgbatch.engine.passes import Passes
from dgbatch.engine.phases import Phases
from dgbatch.engine.scheduler import Scheduler, Tile, prefill_ratio
from dgbatch.engine.sequence import Sequence, chunks_of
from dgbatch.engine.steps import Steps
from dgbatch.engine.stop_strings import cut_at_stop
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.engine.weights import load_transformer
from dgbatch.errors import CheckpointError, RowError
from dgbatch.records import Completion, CurvePoint, EngineConfig, EngineStats, Prompt, Rejection, Settings


class Engine:
    """A model on its device, ready to generate."""

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, config: EngineConfig, defaults: Settings, end_ids: list[int]
    ):
        self.model = model.prepare()
        self.tokenizer = tokenizer
        self.config = config
        self.defaults = defaults
        self.end_ids = frozenset(end_ids)
        shape = model.config
        self.intake = Intake(
            tokenizer,
            defaults,
            self.end_ids,
            shape.canvas_length,
            shape.max_positions,
            shape.vocab_size,
            config.max_prompt_tokens,
        )
        self.device = model.embedding.device
        self.dtype = model.embedding.dtype
        self.phases = Phases(self.device)
        self.stats = EngineStats(seconds=self.phases.seconds)
        self.model_checksum = ""
        self.curve: list[CurvePoint] = []  # where canvases were left to the engine: what it measured
        if config.canvases is None:
            self.curve = self._calibrate()
        self._make_room(config.canvases or knee(self.curve))

    def _make_room(self, canvases: int) -> None:
        """Memory for so many canvases in flight, and the keys and values before them."""
        shape, config = self.model.config, self.config
        self.in_flight = canvases
        budget = config.kv_bytes or default_budget(shape, self.device, canvases)
        counts = count_pages(shape, self.dtype, canvases, config.prefill_tiles, budget)
        self.pages = Pages(*counts, shape.canvas_length, shape.sliding_window - 1, config.share_prefixes)
        self.kv = KVCache(shape, *counts, self.device, self.dtype)
        self.canvases = Canvases(self.model, canvases, self.tokenizer.never_emitted(self.end_ids))
        self.passes = Passes(self.model, self.kv, self.canvases)
        self.steps = Steps(self.passes, self.canvases)

    @torch.inference_mode()
    def _calibrate(self) -> list[CurvePoint]:
        """The throughput curve, over as many canvases as the memory allows beside their longest prompts."""
        shape, config = self.model.config, self.config

        def fits(canvases: int) -> bool:
            budget = config.kv_bytes or default_budget(shape, self.device, canvases)
            return holds_all(shape, self.dtype, canvases, config.prefill_tiles, budget)

        def prepare(canvases: int) -> Callable[[], object]:
            self._make_room(canvases)
            return made_up_steps(self.pages, self.canvases, self.steps, shape, self.defaults)

        return measure(prepare, [SIZES[0], *filter(fits, SIZES[1:])])

    @classmethod
    def load(
        cls, checkpoint: str, config: EngineConfig, revision: str | None = None, local_only: bool = False
    ) -> Engine:
        """A checkpoint folder, hub id or "demo" -> a ready engine. Raises CheckpointError."""
        start = time.perf_counter()
        if config.threads:
            torch.set_num_threads(config.threads)
        folder = resolve(checkpoint, revision, local_only)
        device = pick_device(config.device)
        model = load_transformer(folder, device, pick_dtype(config.dtype, device))
        defaults, end_ids = read_generation_config(folder)
        tokenizer = Tokenizer.load(folder)
        if tokenizer.vocab_size > model.config.vocab_size:
            raise CheckpointError(
                f"{folder}: tokenizer.json has {tokenizer.vocab_size:,} tokens, the model {model.config.vocab_size:,}. "
                "They belong to different checkpoints; download both again."
            )
        engine = cls(model, tokenizer, config, defaults, end_ids)
        engine.model_checksum = checksum(folder)
        engine.phases.seconds["load"] = time.perf_counter() - start
        return engine

    @property
    def device_name(self) -> str:
        """For people and records: the GPU's name, or cpu."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    @property
    def format(self) -> str:
        """Of its weights, as roofline.py names it."""
        return {torch.bfloat16: "bf16"}.get(self.dtype, str(self.dtype).removeprefix("torch."))

    def ceilings(self) -> tuple[float, float]:
        """Bytes and operations a second that this device reaches in the engine's dtype, measured in a moment."""
        with self.phases.of("load"):
            return ceilings(self.model, self.dtype)

    @torch.inference_mode()
    def generate(self, prompts: Iterable[Prompt | None]) -> Iterator[Completion | Rejection]:
        """Completions in order of finishing; a prompt that cannot be done comes back as a Rejection.

        Prompts are pulled lazily: for each free canvas, and as many again, which are tokenized while the device works.
        A None means that none is ready at this moment: the canvases in flight go on and the iterable is asked again
        after the next step. With nothing in flight it is asked again at once, so it should wait by itself then.
        """
        source = Source(prompts)
        scheduler = Scheduler(
            self.pages,
            self.in_flight,
            self.model.config.canvas_length,
            self.config.prefill_tiles,
            self.config.fold,
        )
        results: deque[Sequence | Rejection] = deque()
        try:
            while not (source.exhausted and scheduler.idle):
                self._pull(source, scheduler, scheduler.room, results)
                self._admit(scheduler)
                self._start(scheduler.plan())
                # the device is at work: what the host has to do goes here
                self._pull(source, scheduler, self.in_flight - len(scheduler.waiting), results)
                while results:
                    result = self._told(results.popleft())
                    with self.phases.of("wait_output"):
                        yield result
                settled = self._finish()
                self._settle(settled)
                for sequence in settled:
                    if sequence.finish:
                        scheduler.retire(sequence)
                        sequence.ended_at = time.perf_counter()
                        results.append(sequence)
            yield from map(self._told, results)
        finally:
            for sequence in list(scheduler.flight):
                scheduler.retire(sequence)

    @torch.inference_mode()
    def denoise_logits(
        self, prompt_ids: list[int], canvas_ids: list[int], previous_logits: Tensor | None = None
    ) -> Tensor:
        """One denoising pass after a prompt, for parity tests.

        previous_logits: (canvas, vocab) of the step before, over its temperature, or None on a first step
        returns: (canvas, vocab) float32, softcapped, before the temperature
        raises RowError when the memory for keys and values cannot hold the prompt now
        """
        length = self.model.config.canvas_length
        scheduler = Scheduler(self.pages, 1, length, self.config.prefill_tiles)
        one_canvas = replace(self.defaults, max_new_tokens=length)
        sequence = Sequence(Prompt("", 0, (), 0), one_canvas, prompt_ids, self.end_ids, chunks_of(prompt_ids, length))
        scheduler.waiting.append(sequence)
        if not scheduler.admit():
            raise RowError(
                "out_of_kv_memory",
                f"no pages are free for {len(prompt_ids)} prompt tokens; give the engine more kv_bytes",
            )
        while sequence.pending:
            self.steps.start([tile for tile in scheduler.plan() if tile.causal])
            self.steps.finish()
        slot = sequence.slot
        self.canvases.tokens[slot] = torch.tensor(canvas_ids, device=self.device)
        if previous_logits is not None:
            sequence.step = 1
            self.canvases.soft[slot] = self.model.soft_embeddings(previous_logits.to(self.device).softmax(-1))
        logits = self.passes.run([tile for tile in scheduler.plan() if not tile.causal])
        scheduler.retire(sequence)
        assert logits is not None
        return logits[0, :length]

    def _pull(self, source: Source, scheduler: Scheduler, count: int, results: deque[Sequence | Rejection]) -> None:
        """Take up to `count` prompts and make them ready to be admitted, or reject them."""
        while count > 0:
            with self.phases.of("wait_input" if scheduler.idle else "tokenize"):
                prompt = source.next()
            if prompt is None:
                return
            try:
                with self.phases.of("tokenize"):
                    sequence = self.intake.sequence(prompt, scheduler, self.pages)
                scheduler.waiting.append(sequence)
                self.stats.prompts += 1
                self.stats.prompt_tokens += len(sequence.prompt_ids)
                count -= 1
            except RowError as error:
                self.stats.rejections += 1
                results.append(Rejection(prompt.id, prompt.sample, error.code, error.message))

    def _admit(self, scheduler: Scheduler) -> None:
        admitted = scheduler.admit()
        now = time.perf_counter()
        for sequence in admitted:
            sequence.started_at = now
        self.canvases.lay(admitted)

    def _start(self, tiles: list[Tile]) -> None:
        now = time.perf_counter()
        canvases = [tile for tile in tiles if not tile.causal]
        for tile in canvases:
            tile.sequence.denoised_at = tile.sequence.denoised_at or now
        with self.phases.launching(prefill_ratio(tiles)):
            self.stats.passes += self.steps.start(tiles)
        self.stats.tiles += len(tiles)
        self.stats.steps += bool(canvases)
        self.stats.canvas_tiles += len(canvases)
        self.stats.prefix_tokens += sum(tile.start for tile in canvases)

    def _finish(self) -> list[Sequence]:
        """The decisions about the canvases of the step that was started; returns those whose canvas settled."""
        with self.phases.deciding():
            decided = self.steps.finish()
        settled = []
        for sequence, outcome in decided:
            sequence.stepped(outcome.unchanged)
            if sequence.out_of_steps or sampler.is_settled(sequence.still, outcome.mean_entropy, sequence.settings):
                sequence.entropy_sum += outcome.mean_entropy
                settled.append(sequence)
        return settled

    def _settle(self, sequences: list[Sequence]) -> None:
        """Emit the argmax of each; where that does not end a sequence, its canvas is clean text for the next one."""
        for sequence in sequences:
            ids, first = self.canvases.settled(sequence)
            before = len(sequence.token_ids)
            self.stats.denoise_steps += sequence.step
            self.stats.canvases += 1
            sequence.emit(ids)
            cut_at_stop(sequence, self.tokenizer)
            emitted = len(sequence.token_ids) - before
            sequence.revised_tokens += sum(was not in (-1, now) for was, now in zip(first, ids[:emitted], strict=False))
            self.stats.cut_tokens += len(ids) - emitted
            if not sequence.finish:
                sequence.pending.append(tuple(ids))
        self.canvases.lay([sequence for sequence in sequences if not sequence.finish])

    def _told(self, result: Sequence | Rejection) -> Completion | Rejection:
        return self._completion(result) if isinstance(result, Sequence) else result

    def _completion(self, sequence: Sequence) -> Completion:
        self.stats.tokens += len(sequence.token_ids)
        self.stats.shared_tokens = self.pages.hit_tokens
        self.stats.peak_bytes = peak_bytes(self.device)
        with self.phases.of("tokenize"):
            return completion_of(sequence, self.tokenizer)
