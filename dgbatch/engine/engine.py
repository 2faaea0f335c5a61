"""Prompts in, completions out, on one device. The loop: admit, plan, run, decide, retire."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from dgbatch.engine import sampler
from dgbatch.engine.calibration import SIZES, knee, measure
from dgbatch.engine.canvases import Canvases
from dgbatch.engine.checkpoint import checksum, resolve
from dgbatch.engine.generation_config import read_generation_config
from dgbatch.engine.invariance import Rehearsal
from dgbatch.engine.kv_cache import KVCache
from dgbatch.engine.memory import count_pages, default_budget, holds_all, peak_bytes
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.pages import Pages
from dgbatch.engine.passes import Passes
from dgbatch.engine.scheduler import Scheduler, Tile
from dgbatch.engine.sequence import Sequence, chunks_of
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.engine.weights import load_transformer
from dgbatch.errors import CheckpointError, RowError
from dgbatch.records import Completion, CurvePoint, EngineConfig, EngineStats, Prompt, Rejection, Settings

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


class Engine:
    """A model on its device, ready to generate."""

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, config: EngineConfig, defaults: Settings, end_ids: list[int]
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.defaults = defaults
        self.end_ids = frozenset(end_ids)
        self.device = model.embedding.device
        self.dtype = model.embedding.dtype
        self.stats = EngineStats()
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
        self.rehearsal = Rehearsal(self.model, self.passes.quantum)

    @torch.inference_mode()
    def _calibrate(self) -> list[CurvePoint]:
        """Time denoising steps of made-up canvases, each after a page of made-up prompt, for more and more of them."""
        length, vocab = self.model.config.canvas_length, self.model.config.vocab_size

        def prepare(canvases: int) -> Callable[[], object]:
            self._make_room(canvases)
            scheduler = Scheduler(self.pages, canvases, length, canvases, fold=False)
            for number in range(canvases):
                text = [(number + 7 * place) % vocab for place in range(length)]
                short = replace(self.defaults, max_new_tokens=length)
                scheduler.waiting.append(
                    Sequence(Prompt("", 0, (), number), short, text, self.end_ids, chunks_of(text, length))
                )
            self.canvases.lay(scheduler.admit())
            return lambda: [self._decide(*self._launch(group)) for group in self._groups(scheduler.plan())]

        curve = measure(prepare, self._sizes())
        self.stats = EngineStats()
        return curve

    def _sizes(self) -> list[int]:
        """Canvases in flight worth trying: those that the memory allows beside their longest prompts."""
        config = self.config

        def fits(canvases: int) -> bool:
            budget = config.kv_bytes or default_budget(self.model.config, self.device, canvases)
            return holds_all(self.model.config, self.dtype, canvases, config.prefill_tiles, budget)

        return [SIZES[0], *(size for size in SIZES[1:] if fits(size))]

    @classmethod
    def load(
        cls, checkpoint: str, config: EngineConfig, revision: str | None = None, local_only: bool = False
    ) -> Engine:
        """A checkpoint folder, hub id or "demo" -> a ready engine. Raises CheckpointError."""
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
        return engine

    @property
    def device_name(self) -> str:
        """For people and records: the GPU's name, or cpu."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

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
        results: deque[Completion | Rejection] = deque()
        try:
            while not (source.exhausted and scheduler.idle):
                self._pull(source, scheduler, scheduler.room, results)
                self._admit(scheduler)
                tiles = scheduler.plan()
                steps = [self._launch(group) for group in self._groups(tiles)]
                # the device is at work: what the host has to do goes here
                self._pull(source, scheduler, self.in_flight - len(scheduler.waiting), results)
                while results:
                    yield results.popleft()
                settled = [one for canvases, logits in steps for one in self._decide(canvases, logits)]
                self._settle(settled)
                for sequence in settled:
                    if sequence.finish:
                        scheduler.retire(sequence)
                        results.append(self._completion(sequence))
            yield from results
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
            tiles = scheduler.plan()
            for group in self._groups([tile for tile in tiles if tile.causal]):
                self.passes.run(group)
        slot = sequence.slot
        self.canvases.tokens[slot] = torch.tensor(canvas_ids, device=self.device)
        if previous_logits is not None:
            sequence.step = 1
            self.canvases.soft[slot] = self.model.soft_embeddings(previous_logits.to(self.device).softmax(-1))
        logits = self.passes.run([tile for tile in scheduler.plan() if not tile.causal])
        scheduler.retire(sequence)
        assert logits is not None
        return logits[0, :length]

    def _pull(self, source: Source, scheduler: Scheduler, count: int, results: deque[Completion | Rejection]) -> None:
        """Take up to `count` prompts and make them ready to be admitted, or reject them."""
        while count > 0:
            with self._phase("idle" if scheduler.idle else "tokenize"):
                prompt = source.next()
            if prompt is None:
                return
            try:
                with self._phase("tokenize"):
                    scheduler.waiting.append(self._begin(prompt, scheduler))
                count -= 1
            except RowError as error:
                self.stats.rejections += 1
                results.append(Rejection(prompt.id, prompt.sample, error.code, error.message))

    def _begin(self, prompt: Prompt, scheduler: Scheduler) -> Sequence:
        """A prompt's tokens and settings, checked against what the model and the memory can hold. Raises RowError."""
        settings = prompt.generation.or_else(self.defaults)
        length, most = self.model.config.canvas_length, self.model.config.max_positions
        prompt_ids = self.tokenizer.encode_chat(prompt.messages, prompt.thinking)
        if not prompt_ids:
            raise RowError("empty_prompt", "the chat template made no tokens of the messages")
        limit = min(most - length, self.config.max_prompt_tokens or most)
        if len(prompt_ids) > limit:
            raise RowError(
                "prompt_too_long", f"the prompt has {len(prompt_ids)} tokens, at most {limit} fit beside a canvas"
            )
        if settings.suppress_tokens:
            self._check_suppressed(settings.suppress_tokens)
        room = (most - len(prompt_ids)) // length * length
        settings = replace(settings, max_new_tokens=min(settings.max_new_tokens, room))
        sequence = Sequence(prompt, settings, prompt_ids, self.end_ids, chunks_of(prompt_ids, length))
        sequence.began_at = time.perf_counter()
        need = scheduler.need(sequence)
        if not self.pages.fits(need):
            raise RowError(
                "out_of_kv_memory",
                f"{len(prompt_ids)} prompt tokens and {settings.max_new_tokens} new ones need {need[0]} pages of "
                f"{length} tokens, and {self.pages.full.size} fit the memory for keys and values",
            )
        self.stats.prompts += 1
        self.stats.prompt_tokens += len(prompt_ids)
        return sequence

    def _check_suppressed(self, ids: tuple[int, ...]) -> None:
        """Raises RowError for an id that is no token's, and where none is left to write."""
        size = self.model.config.vocab_size
        if unknown := [id for id in ids if not 0 <= id < size]:
            raise RowError(
                "bad_generation",
                f"suppress_tokens has the id {unknown[0]}; those of this checkpoint go from 0 to {size - 1:,}",
            )
        if len({*ids, *self.tokenizer.never_emitted(self.end_ids)}) >= size:
            raise RowError("bad_generation", "suppress_tokens leaves no token to write")

    def _admit(self, scheduler: Scheduler) -> None:
        admitted = scheduler.admit()
        now = time.perf_counter()
        for sequence in admitted:
            sequence.started_at = now
        self.canvases.lay(admitted)

    def _groups(self, tiles: list[Tile]) -> list[list[Tile]]:
        """The passes that these tiles take: one, or one for each where company would change a bit."""
        if not tiles:
            return []
        if all(map(self.rehearsal.holds, sorted(self.passes.rows(tiles)))):
            return [tiles]
        return [[tile] for tile in tiles]

    def _launch(self, tiles: list[Tile]) -> tuple[list[Sequence], Tensor | None]:
        canvases = [tile.sequence for tile in tiles if not tile.causal]
        now = time.perf_counter()
        for sequence in canvases:
            sequence.denoised_at = sequence.denoised_at or now
        with self._phase("forward"):
            logits = self.passes.run(tiles)
        self.stats.passes += 1
        self.stats.tiles += len(tiles)
        return canvases, logits

    def _decide(self, sequences: list[Sequence], logits: Tensor | None) -> list[Sequence]:
        """One denoising step of these canvases; returns those whose canvas settled."""
        if logits is None:
            return []
        with self._phase("sample"):
            outcomes = self.canvases.step(sequences, logits)
        settled = []
        for sequence, outcome in zip(sequences, outcomes, strict=True):
            settings = sequence.settings
            sequence.stepped(outcome.unchanged)
            if sequence.step >= settings.max_denoising_steps or sampler.is_settled(
                sequence.still, outcome.mean_entropy, settings
            ):
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
            self._stop_strings(sequence)
            emitted = len(sequence.token_ids) - before
            sequence.revised_tokens += sum(was not in (-1, now) for was, now in zip(first, ids[:emitted], strict=False))
            self.stats.cut_tokens += len(ids) - emitted
            if not sequence.finish:
                sequence.pending.append(tuple(ids))
        self.canvases.lay([sequence for sequence in sequences if not sequence.finish])

    def _stop_strings(self, sequence: Sequence) -> None:
        """Cut a sequence after the first token that completes one of its stop strings."""
        if not any(stop in self.tokenizer.parse(sequence.answer_ids).text for stop in sequence.settings.stop):
            return
        low, high = 1, len(sequence.answer_ids)
        while low < high:
            middle = (low + high) // 2
            text = self.tokenizer.parse(sequence.answer_ids[:middle]).text
            low, high = (low, middle) if any(stop in text for stop in sequence.settings.stop) else (middle + 1, high)
        sequence.stop_at(low)

    def _completion(self, sequence: Sequence) -> Completion:
        with self._phase("tokenize"):
            parsed = self.tokenizer.parse(sequence.answer_ids)
        text = parsed.text
        if sequence.finish == "stop":
            text = text[: min(text.find(stop) for stop in sequence.settings.stop if stop in text)]
        self.stats.tokens += len(sequence.token_ids)
        self.stats.shared_tokens = self.pages.hit_tokens
        self.stats.peak_bytes = peak_bytes(self.device)
        assert sequence.finish is not None
        return Completion(
            id=sequence.prompt.id,
            sample=sequence.prompt.sample,
            text=text,
            thinking=parsed.thinking,
            finish_reason=sequence.finish,
            token_ids=tuple(sequence.token_ids),
            prompt_tokens=len(sequence.prompt_ids),
            canvases=sequence.canvas,
            denoise_steps=sequence.denoise_steps,
            noise_key=sequence.prompt.noise_key,
            revised_tokens=sequence.revised_tokens,
            mean_entropy=sequence.entropy_sum / sequence.canvas,
            queue_s=sequence.started_at - sequence.began_at,
            prefill_s=sequence.denoised_at - sequence.started_at,
            denoise_s=time.perf_counter() - sequence.denoised_at,
        )

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.stats.seconds[name] = self.stats.seconds.get(name, 0.0) + time.perf_counter() - start


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


def pick_device(name: str) -> torch.device:
    """auto takes a GPU where there is one. Raises CheckpointError for a device this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"device {name!r} was asked for, but torch sees no CUDA GPU. Use device auto or cpu.")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """auto is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[name]
