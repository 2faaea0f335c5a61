"""Prompts in, completions out, on one device. The loop: admit, plan, run, decide, retire."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from dgbatch.engine.calibration import CUDA_LIMIT_S, LIMIT_S, SIZES, knee, made_up_steps, measure
from dgbatch.engine.checkpoint import checksum, resolve
from dgbatch.engine.completion import completion_of
from dgbatch.engine.device import has_kernels, pick_device, pick_dtype
from dgbatch.engine.device_step.ahead import AheadLoop
from dgbatch.engine.generation_config import read_generation_config
from dgbatch.engine.intake import Intake, Source
from dgbatch.engine.limits import ceilings
from dgbatch.engine.memory import count_pages, default_budget, holds_all, peak_bytes
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.phases import Phases
from dgbatch.engine.plain_loop import PlainLoop
from dgbatch.engine.scheduler import Scheduler
from dgbatch.engine.sequence import Sequence, chunks_of
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.engine.weights import load_transformer
from dgbatch.errors import CheckpointError, RowError
from dgbatch.records import Completion, CurvePoint, EngineConfig, EngineStats, Prompt, Rejection, Settings

Loop = TypeVar("Loop", "PlainLoop", "AheadLoop")


class Engine:
    """A model on its device, ready to generate."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        config: EngineConfig,
        defaults: Settings,
        end_ids: list[int],
        _ahead: bool | None = None,
    ):
        """_ahead: tests run on a CPU what a GPU does; None: what the device is for."""
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
        self.runs_ahead = has_kernels(self.device, self.dtype) if _ahead is None else _ahead
        self.model_checksum = ""
        self.curve: list[CurvePoint] = []  # where canvases were left to the engine: what it measured
        self._count_anew()
        if config.canvases is None:
            self.curve = self._calibrate()
            self._count_anew()
        self._make_room(config.canvases or knee(self.curve))

    def _count_anew(self) -> None:
        self.phases = Phases(self.device)
        self.stats = EngineStats(seconds=self.phases.seconds)

    def _make_room(self, canvases: int) -> None:
        """Memory for so many canvases in flight, and the keys and values before them."""
        self.in_flight = canvases
        if self.runs_ahead:
            self.__dict__.pop("loop", None)  # what the room before this one held is free again
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.loop: PlainLoop | AheadLoop = self._loop(AheadLoop, canvases)
        else:
            self.loop = plain = self._loop(PlainLoop, canvases)
            self.kv, self.canvases, self.passes, self.steps = plain.kv, plain.canvases, plain.passes, plain.steps
        self.pages = self.loop.pages

    def _loop(self, kind: type[Loop], canvases: int) -> Loop:
        shape, tiles = self.model.config, self.config.prefill_tiles
        counts = count_pages(shape, self.dtype, canvases, tiles, self._budget(kind, canvases), kind.pages_ahead)
        return kind(self.model, self.tokenizer, self.config, canvases, counts, self.end_ids, self.stats, self.phases)

    def _budget(self, kind: type[PlainLoop] | type[AheadLoop], canvases: int) -> int:
        """Bytes for the keys and values of clean text."""
        shape, config = self.model.config, self.config
        held = kind.held_bytes(shape, self.dtype, canvases, config.prefill_tiles)
        return config.kv_bytes or default_budget(shape, self.device, canvases, held)

    def plain_loop(self, canvases: int = 1) -> PlainLoop:
        """The plain passes: those at work, or beside a loop that runs ahead others over the same weights."""
        return self.loop if isinstance(self.loop, PlainLoop) else self._loop(PlainLoop, canvases)

    @torch.inference_mode()
    def _calibrate(self) -> list[CurvePoint]:
        """The throughput curve, over as many canvases as the memory allows beside their longest prompts."""
        shape, config = self.model.config, self.config
        kind = AheadLoop if self.runs_ahead else PlainLoop

        def fits(canvases: int) -> bool:
            budget = self._budget(kind, canvases)
            return holds_all(shape, self.dtype, canvases, config.prefill_tiles, budget, kind.pages_ahead)

        def prepare(canvases: int) -> Callable[[], object]:
            self._make_room(canvases)
            return made_up_steps(self.loop, canvases, config.prefill_tiles, shape, self.defaults)

        limit_s = CUDA_LIMIT_S if self.device.type == "cuda" else LIMIT_S
        return measure(prepare, [SIZES[0], *filter(fits, SIZES[1:])], limit_s)

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
                self.loop.start(scheduler)
                # the device is at work: what the host has to do goes here
                self._pull(source, scheduler, self.in_flight - len(scheduler.waiting), results)
                while results:
                    result = self._told(results.popleft())
                    with self.phases.of("wait_output"):
                        yield result
                for sequence in self.loop.finish():
                    self._retire(scheduler, sequence)
                    sequence.ended_at = time.perf_counter()
                    results.append(sequence)
            yield from map(self._told, results)
        finally:
            for sequence in list(scheduler.flight):
                self._retire(scheduler, sequence)
            self.loop.forget()

    @torch.inference_mode()
    def denoise_logits(
        self, prompt_ids: list[int], canvas_ids: list[int], previous_logits: Tensor | None = None
    ) -> Tensor:
        """One denoising pass after a prompt, for parity tests.

        previous_logits: (canvas, vocab) of the step before, over its temperature, or None on a first step
        returns: (canvas, vocab) float32, softcapped, before the temperature
        raises RowError when the memory for keys and values cannot hold the prompt now
        """
        length, loop = self.model.config.canvas_length, self.plain_loop()
        scheduler = Scheduler(loop.pages, 1, length, self.config.prefill_tiles)
        one_canvas = replace(self.defaults, max_new_tokens=length)
        sequence = Sequence(Prompt("", 0, (), 0), one_canvas, prompt_ids, self.end_ids, chunks_of(prompt_ids, length))
        scheduler.waiting.append(sequence)
        if not scheduler.admit():
            raise RowError(
                "out_of_kv_memory",
                f"no pages are free for {len(prompt_ids)} prompt tokens; give the engine more kv_bytes",
            )
        while sequence.pending:
            loop.steps.start([tile for tile in scheduler.plan() if tile.causal])
            loop.steps.finish()
        slot = sequence.slot
        loop.canvases.tokens[slot] = torch.tensor(canvas_ids, device=self.device)
        if previous_logits is not None:
            sequence.step = 1
            loop.canvases.soft[slot] = self.model.soft_embeddings(previous_logits.to(self.device).softmax(-1))
        logits = loop.passes.run([tile for tile in scheduler.plan() if not tile.causal])
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
        self.loop.admit(admitted)

    def _retire(self, scheduler: Scheduler, sequence: Sequence) -> None:
        scheduler.retire(sequence)
        self.loop.leave(sequence)

    def _told(self, result: Sequence | Rejection) -> Completion | Rejection:
        return self._completion(result) if isinstance(result, Sequence) else result

    def _completion(self, sequence: Sequence) -> Completion:
        self.stats.tokens += len(sequence.token_ids)
        self.stats.shared_tokens = self.pages.hit_tokens
        self.stats.peak_bytes = peak_bytes(self.device)
        with self.phases.of("tokenize"):
            return completion_of(sequence, self.tokenizer)
