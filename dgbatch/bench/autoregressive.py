"""The same weights used causally: one token a pass, KV cache, continuous batching. What diffusion is up against.

Our own layers with plain torch around them, as cheap as it gets: greedy, nothing but an argmax after the logits. A
finished sequence leaves at once and the next takes its place, so the batch is always full but at the end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dgbatch.bench.measure import Run
from dgbatch.bench.puzzles import Puzzle, messages
from dgbatch.engine import kernels
from dgbatch.engine.engine import Engine
from dgbatch.engine.model.attention import Attend


@dataclass(slots=True, eq=False)
class Text:
    """One prompt and what was written after it."""

    index: int
    prompt_ids: list[int]
    new_ids: list[int] = field(default_factory=list)


class Autoregressive:
    """`sequences` rows of keys and values; those of texts in flight are the first ones, without gaps."""

    def __init__(self, engine: Engine, sequences: int, max_new_tokens: int | None = None):
        self.model, self.tokenizer, self.device = engine.model, engine.tokenizer, engine.device
        self.end_ids = engine.end_ids
        self.banned = torch.tensor(self.tokenizer.never_emitted(self.end_ids), dtype=torch.int64, device=self.device)
        self.sequences = sequences
        self.max_new_tokens = max_new_tokens or engine.defaults.max_new_tokens
        self.cache: list[tuple[Tensor, Tensor]] = []
        self.flight: list[Text] = []

    @torch.inference_mode()
    def run(self, puzzles: Sequence[Puzzle]) -> Run:
        """All puzzles once."""
        start = time.perf_counter()
        texts = [Text(n, self.tokenizer.encode_chat(messages(puzzle))) for n, puzzle in enumerate(puzzles)]
        self._reserve(max((len(text.prompt_ids) for text in texts), default=0) + self.max_new_tokens)
        waiting = deque(texts)
        while waiting or self.flight:
            newcomers = [waiting.popleft() for _ in range(min(len(waiting), self.sequences - len(self.flight)))]
            if newcomers:
                self._read(newcomers)
            if self.flight:
                self._write()
        seconds = time.perf_counter() - start
        solved = sum(self._said(text) == puzzles[text.index].answer for text in texts)
        return Run(len(texts), solved, sum(len(text.new_ids) for text in texts), seconds)

    def _reserve(self, tokens: int) -> None:
        if self.cache and self.cache[0][0].shape[1] >= tokens:
            return
        embedding = self.model.embedding
        self.cache = [  # zeros: what a row may not see still takes part, times nothing, and must be a number
            tuple(embedding.new_zeros(self.sequences, tokens, layer.kv_heads, layer.head_dim) for _ in "kv")  # type: ignore[misc]
            for layer in self.model.config.layers
        ]

    def _read(self, newcomers: list[Text]) -> None:
        """Encode the prompts of newcomers in one pass, padded on the right, and write the first token of each."""
        first, lengths = len(self.flight), [len(text.prompt_ids) for text in newcomers]
        width, window = max(lengths), self.model.config.sliding_window
        ids = self._ids([text.prompt_ids + [0] * (width - len(text.prompt_ids)) for text in newcomers])
        position = torch.arange(width, device=self.device)
        before = position[:, None] - position
        full, near = before >= 0, (before >= 0) & (before < window)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            for kept, new in zip(self.cache[layer], (k, v), strict=True):
                kept[first : first + len(newcomers), :width] = new
            mask = near if self.model.config.layers[layer].sliding else full
            return kernels.attention(q, k, v, mask.expand(len(newcomers), -1, -1))

        x = self._layers(ids, position.expand_as(ids), attend)
        last = x[torch.arange(len(newcomers), device=self.device), self._ids(lengths) - 1]
        self.flight += newcomers
        self._take(newcomers, last)

    def _write(self) -> None:
        """One more token of every text in flight."""
        count = len(self.flight)
        lengths = [len(text.prompt_ids) + len(text.new_ids) - 1 for text in self.flight]  # already in the cache
        position = self._ids(lengths)[:, None]
        row, end, window = torch.arange(count, device=self.device), max(lengths) + 1, self.model.config.sliding_window
        start = max(0, min(lengths) - window + 1)  # no sliding layer looks further back
        key = torch.arange(end, device=self.device)
        full = (key <= position)[:, None]
        near = full & (key > position - window)[:, None]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            for kept, new in zip(self.cache[layer], (k, v), strict=True):
                kept[row, position[:, 0]] = new[:, 0]
            sliding = self.model.config.layers[layer].sliding
            seen = slice(start if sliding else 0, end)
            k_seen, v_seen = (kept[:count, seen] for kept in self.cache[layer])
            return kernels.attention(q, k_seen, v_seen, (near if sliding else full)[..., seen])

        ids = self._ids([[text.new_ids[-1]] for text in self.flight])
        self._take(list(self.flight), self._layers(ids, position, attend)[:, 0])

    def _take(self, texts: list[Text], x: Tensor) -> None:
        """Append the likeliest token to each text; those that end leave. x: (batch, hidden) after the layers."""
        logits = self.model.logits(x).index_fill_(-1, self.banned, float("-inf"))
        for text, token in zip(texts, logits.argmax(-1).tolist(), strict=True):
            text.new_ids.append(token)
            if token in self.end_ids or len(text.new_ids) == self.max_new_tokens:
                self._leave(text)

    def _leave(self, text: Text) -> None:
        """The last row takes the free place, so that no pass has gaps."""
        place, last = self.flight.index(text), self.flight.pop()
        if last is not text:
            self.flight[place] = last
            used = len(last.prompt_ids) + len(last.new_ids)
            for kept in (tensor for pair in self.cache for tensor in pair):
                kept[place, :used] = kept[len(self.flight), :used]

    def _layers(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        encoding = torch.ones(ids.shape, dtype=torch.bool, device=self.device)
        return self.model.run_layers(self.model.embed_context(ids), positions, encoding, attend)

    def _said(self, text: Text) -> str:
        ids = text.new_ids[:-1] if text.new_ids[-1] in self.end_ids else text.new_ids
        return self.tokenizer.parse(ids).text

    def _ids(self, values: list) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)
