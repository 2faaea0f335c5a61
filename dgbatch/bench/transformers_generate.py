"""transformers' `generate` on the same checkpoint: the reference, at its best."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dgbatch.bench.measure import Run
from dgbatch.bench.puzzles import Puzzle, messages
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.errors import BenchError

EXPERTS = ("eager", "batched_mm", "grouped_mm")  # of transformers 5.23


class TransformersGenerate:
    """Prompts in batches, padded on the left; a batch ends when its longest row ends."""

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, end_ids: frozenset[int], device: torch.device, dtype: torch.dtype
    ):
        try:
            import transformers
        except ModuleNotFoundError as error:
            raise BenchError(
                "the comparison needs transformers: pip install 'dgbatch[bench]', "
                "or leave it out with --no-transformers"
            ) from error
        self.version = transformers.__version__
        # It would list the vision tower as missing: text checkpoints may come without, and text never runs it.
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._model: Any = transformers.DiffusionGemmaForBlockDiffusion.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa"
        )
        self._model.to(device).eval()
        self._runs: Counter[tuple[int, str]] = Counter()
        self._device = device
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._pad = self._model.generation_config.pad_token_id or 0

    def accepts(self, experts: str) -> bool:
        """Whether this version and device know that way of running experts."""
        try:
            self._model.set_experts_implementation(experts)
        except (ValueError, ImportError):
            return False
        return bool(self._model.config._experts_implementation == experts)  # some fall back without a word

    @torch.inference_mode()
    def run(
        self, puzzles: Sequence[Puzzle], batch: int, experts: str, max_new_tokens: int | None, by_length: bool = False
    ) -> Run:
        """All puzzles once, as they come or those of like length together.

        by_length: less padding, and answers of like length too; it takes somebody who has all prompts beforehand
        """
        self._model.set_experts_implementation(experts)
        torch.manual_seed(self._runs[batch, experts])  # other noise in each turn: a batch waits for its slowest row
        self._runs[batch, experts] += 1
        said = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
        solved = tokens = canvases = steps = 0
        start = time.perf_counter()
        encoded = [(self._tokenizer.encode_chat(messages(puzzle)), puzzle) for puzzle in puzzles]
        if by_length:
            encoded.sort(key=lambda one: len(one[0]))
        for first in range(0, len(encoded), batch):
            rows = encoded[first : first + batch]
            width = max(len(ids) for ids, _ in rows)
            ids = torch.tensor([[self._pad] * (width - len(own)) + own for own, _ in rows], device=self._device)
            mask = torch.tensor([[0] * (width - len(own)) + [1] * len(own) for own, _ in rows], device=self._device)
            made = self._model.generate(ids, attention_mask=mask, return_dict_in_generate=True, **said)
            new = made.sequences[:, width:]
            steps += round(((new != self._pad).sum(-1) / made.tokens_per_forward).sum().item())
            for own, (_, puzzle) in zip(new.tolist(), rows, strict=True):
                answer = turn(own, self._end_ids)
                tokens += len(answer)
                canvases += -(-len(answer) // self._model.config.canvas_length)
                said_ids = answer[:-1] if answer[-1] in self._end_ids else answer
                solved += self._tokenizer.parse(said_ids).text == puzzle.answer
        return Run(len(puzzles), solved, tokens, time.perf_counter() - start, canvases, steps)


def turn(ids: list[int], end_ids: frozenset[int]) -> list[int]:
    """Up to the first end of turn, that included."""
    end = next((index for index, token in enumerate(ids) if token in end_ids), len(ids) - 1)
    return ids[: end + 1]
