"""Prompts in, completions out, on one device. The loop: admit, denoise, settle, retire."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from dgbatch.engine import noise, sampler
from dgbatch.engine.checkpoint import checksum, resolve
from dgbatch.engine.generation_config import read_generation_config
from dgbatch.engine.invariance import same_in_company
from dgbatch.engine.kv_cache import KVCache, attend_canvases
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.scheduler import Scheduler
from dgbatch.engine.sequence import Sequence
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.engine.weights import load_transformer
from dgbatch.errors import CheckpointError, RowError
from dgbatch.records import Completion, EngineConfig, EngineStats, Prompt, Rejection, Settings

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


@dataclass(slots=True, eq=False)
class Slot:
    """A sequence in flight and its tensors on the device."""

    sequence: Sequence
    cache: KVCache
    canvas: Tensor  # (canvas,) int64
    argmax: Tensor  # (canvas,) int64, of the step before; -1 on a canvas's first step
    soft: Tensor  # (canvas, hidden), zero on a canvas's first step


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

    @cached_property
    def together(self) -> bool:
        """Whether canvases share a denoising pass: on a CPU only where that changes no bit of any of them."""
        return self.device.type == "cuda" or same_in_company(self._rehearse, self.config.canvases)

    @torch.inference_mode()
    def generate(self, prompts: Iterable[Prompt | None]) -> Iterator[Completion | Rejection]:
        """Completions in order of finishing; a prompt that cannot be done comes back as a Rejection.

        Prompts are pulled lazily, one for each free canvas. A None means that none is ready at this moment: the
        canvases in flight go on and the iterable is asked again after the next step. With nothing in flight it is
        asked again at once, so it should wait by itself then.
        """
        scheduler = Scheduler(prompts, self.config.canvases)
        slots: list[Slot] = []
        while not scheduler.done:
            for prompt in scheduler.admit():
                try:
                    slots.append(self._begin(prompt))
                except RowError as error:
                    scheduler.retire()
                    self.stats.rejections += 1
                    yield Rejection(prompt.id, prompt.sample, error.code, error.message)
            if not slots:
                continue
            groups = [slots] if self.together else [[slot] for slot in slots]
            settled = [slot for group in groups for slot in self._denoise(group)]
            for slot in settled:
                self._settle(slot)
            for slot in [slot for slot in settled if slot.sequence.finish]:
                slots.remove(slot)
                scheduler.retire()
                yield self._completion(slot.sequence)

    @torch.inference_mode()
    def denoise_logits(
        self, prompt_ids: list[int], canvas_ids: list[int], previous_logits: Tensor | None = None
    ) -> Tensor:
        """One denoising pass after a prompt, for parity tests.

        previous_logits: (canvas, vocab) of the step before, over its temperature, or None on a first step
        returns: (canvas, vocab) float32, softcapped, before the temperature
        """
        cache = self._cache(len(prompt_ids))
        self._encode(cache, prompt_ids)
        soft = None if previous_logits is None else self.model.soft_embeddings(previous_logits.to(self.device))
        return self._canvas_logits(self._ids(canvas_ids)[None], None if soft is None else soft[None], [cache])[0]

    def _begin(self, prompt: Prompt) -> Slot:
        """Encode a prompt and lay out its first canvas. Raises RowError."""
        settings = prompt.generation.or_else(self.defaults)
        length = self.model.config.canvas_length
        with self._phase("tokenize"):
            prompt_ids = self.tokenizer.encode_chat(prompt.messages, prompt.thinking)
        if not prompt_ids:
            raise RowError("empty_prompt", "the chat template made no tokens of the messages")
        limit = self.model.config.max_positions - length
        limit = min(limit, self.config.max_prompt_tokens or limit)
        if len(prompt_ids) > limit:
            raise RowError(
                "prompt_too_long", f"the prompt has {len(prompt_ids)} tokens, at most {limit} fit beside a canvas"
            )
        room = self.model.config.max_positions - len(prompt_ids)
        settings = replace(settings, max_new_tokens=min(settings.max_new_tokens, room // length * length))
        cache = self._cache(len(prompt_ids) + -(-settings.max_new_tokens // length) * length)
        with self._phase("encode"):
            self._encode(cache, prompt_ids)
        sequence = Sequence(prompt, settings, prompt_ids, self.end_ids)
        self.stats.prompts += 1
        self.stats.prompt_tokens += len(prompt_ids)
        empty = torch.empty(0, dtype=torch.int64, device=self.device)
        slot = Slot(sequence, cache, empty, empty, empty)
        self._lay_canvas(slot)
        return slot

    def _lay_canvas(self, slot: Slot) -> None:
        """A fresh canvas of uniform noise, with nothing believed about it yet."""
        length, hidden = self.model.config.canvas_length, self.model.config.hidden
        slot.canvas = self._fresh([slot], [0])[0]
        slot.argmax = torch.full((length,), -1, dtype=torch.int64, device=self.device)
        slot.soft = torch.zeros(length, hidden, dtype=self.dtype, device=self.device)

    def _denoise(self, slots: list[Slot]) -> list[Slot]:
        """One denoising step of every canvas in flight; returns those whose canvas settled."""
        steps = [slot.sequence.step for slot in slots]
        settings = [slot.sequence.settings for slot in slots]
        with self._phase("denoise"):
            canvases = torch.stack([slot.canvas for slot in slots])
            soft = torch.stack([slot.soft for slot in slots]) if any(steps) else None
            logits = self._canvas_logits(canvases, soft, [slot.cache for slot in slots])
        with self._phase("sample"):
            temperatures = [sampler.temperature_at(step, own) for step, own in zip(steps, settings, strict=True)]
            z = logits / self._floats(temperatures)[:, None, None]
            drawn = sampler.draw(z, noise.gumbel(*self._counters(slots, steps), *z.shape[1:]))
            fresh = self._fresh(slots, [step + 1 for step in steps])
            decision = sampler.next_canvas(z, drawn, fresh, self._floats([own.entropy_bound for own in settings]))
            believed = self.model.soft_embeddings(z)
            unchanged = (decision.argmax == torch.stack([slot.argmax for slot in slots])).all(-1).tolist()
            mean_entropy = decision.mean_entropy.tolist()
        settled = []
        for i, slot in enumerate(slots):
            slot.canvas, slot.argmax, slot.soft = decision.next_canvas[i], decision.argmax[i], believed[i]
            slot.sequence.stepped(unchanged[i])
            if slot.sequence.step >= settings[i].max_denoising_steps or sampler.is_settled(
                slot.sequence.still, mean_entropy[i], settings[i]
            ):
                settled.append(slot)
        self.stats.passes += 1
        return settled

    def _rehearse(self, first: int, end: int) -> list[Tensor]:
        """A denoising pass over made-up canvases first to end - 1: what of it decides tokens."""
        keys = self._ids([[number, number] for number in range(first, end)])
        zero, shape = torch.zeros_like(keys[:, 0]), (self.model.config.canvas_length, self.model.config.vocab_size)
        canvases = noise.uniform_tokens(keys, zero, zero, *shape)
        soft = self.model.embed_context(canvases.flip(-1))
        logits = self._canvas_logits(canvases, soft, [self._cache(0)] * len(keys))
        gumbel = noise.gumbel(keys, zero, zero, *shape)
        return [logits, gumbel, sampler.entropy(logits).mean(-1), self.model.soft_embeddings(logits)]

    def _settle(self, slot: Slot) -> None:
        """Emit a canvas's argmax; unless that ends the sequence, encode it and lay the next canvas."""
        sequence, ids = slot.sequence, slot.argmax.tolist()
        self.stats.denoise_steps += sequence.step
        sequence.emit(ids)
        self.stats.canvases += 1
        self._stop_strings(sequence)
        if not sequence.finish:
            with self._phase("encode"):
                self._encode(slot.cache, ids)
            self._lay_canvas(slot)

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
        parsed = self.tokenizer.parse(sequence.answer_ids)
        text = parsed.text
        if sequence.finish == "stop":
            text = text[: min(text.find(stop) for stop in sequence.settings.stop if stop in text)]
        self.stats.tokens += len(sequence.token_ids)
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
        )

    def _encode(self, cache: KVCache, ids: list[int]) -> None:
        """Run clean tokens causally after what the cache holds, and cache them."""
        positions = torch.arange(cache.length, cache.length + len(ids), device=self.device)
        causal = torch.ones(len(ids), dtype=torch.bool, device=self.device)
        self.model.run_layers(self.model.embed_context(self._ids(ids)), positions, causal, cache.attend_causal())
        cache.length += len(ids)
        self.stats.passes += 1

    def _canvas_logits(self, canvases: Tensor, soft: Tensor | None, caches: list[KVCache]) -> Tensor:
        """canvases: (batch, canvas) int64; soft: (batch, canvas, hidden) or None; returns (batch, canvas, vocab)."""
        starts = torch.tensor([cache.length for cache in caches], device=self.device)
        positions = starts[:, None] + torch.arange(canvases.shape[1], device=self.device)
        causal = torch.zeros_like(positions, dtype=torch.bool)
        x = self.model.embed_canvas(canvases, soft)
        return self.model.logits(self.model.run_layers(x, positions, causal, attend_canvases(caches)))

    def _counters(self, slots: list[Slot], steps: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        keys = [noise.split_key(slot.sequence.prompt.noise_key) for slot in slots]
        return self._ids(keys), self._ids([slot.sequence.canvas for slot in slots]), self._ids(steps)

    def _fresh(self, slots: list[Slot], steps: list[int]) -> Tensor:
        config = self.model.config
        return noise.uniform_tokens(*self._counters(slots, steps), config.canvas_length, config.vocab_size)

    def _cache(self, capacity: int) -> KVCache:
        return KVCache(self.model.config, capacity, self.device, self.dtype)

    def _ids(self, values: list) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def _floats(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.stats.seconds[name] = self.stats.seconds.get(name, 0.0) + time.perf_counter() - start


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
