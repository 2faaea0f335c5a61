"""What the demo model is trained on: noisy canvases to be cleaned, and the clean text read causally.

One pass over a batch runs the clean rows (prompt and answer) causally and keeps their keys and values; every canvas
then looks at itself and at the clean tokens before it, as it will when it is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dgbatch.demo.checkpoint_files import CANVAS_LENGTH, VOCABULARY, answer_ids, prompt_ids
from dgbatch.demo.tasks import Example
from dgbatch.engine import kernels
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.model.transformer import Transformer

CAUSAL_WEIGHT = 0.3  # of the next-token loss beside the denoising loss
LEAST_NOISE = 1e-3
NOT_SUPERVISED = -100


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples of one task, padded to one shape.

    clean: (batch, clean) int64 prompt and answer, then pad; prompt_tokens: (batch,) int64
    next_token: (batch, clean) int64 what follows each clean token, inside the answer; NOT_SUPERVISED elsewhere
    canvas: (batch, canvases * CANVAS_LENGTH) int64 noisy; target: likewise, clean; NOT_SUPERVISED past the answer
    """

    clean: Tensor
    prompt_tokens: Tensor
    next_token: Tensor
    canvas: Tensor
    target: Tensor


def make_batch(examples: Sequence[Example], clean_tokens: int, canvases: int, generator: torch.Generator) -> Batch:
    """Pad the examples, and replace each canvas token by a random one with a probability drawn per canvas."""
    rows, length = len(examples), canvases * CANVAS_LENGTH
    clean = torch.zeros(rows, clean_tokens, dtype=torch.int64)
    next_token = torch.full_like(clean, NOT_SUPERVISED)
    target = torch.full((rows, length), NOT_SUPERVISED)
    prompt_tokens = torch.zeros(rows, dtype=torch.int64)
    for row, (prompt, answer) in enumerate(examples):
        before, after = torch.tensor(prompt_ids(prompt)), torch.tensor(answer_ids(answer))
        spoken = len(answer) + 1  # with the end of turn; the fill is no text to be read
        start, end = len(before), len(before) + spoken
        prompt_tokens[row] = start
        clean[row, :start], clean[row, start:end] = before, after[:spoken]
        next_token[row, start - 1 : end - 1] = after[:spoken]
        target[row, : len(after)] = after
    noise_ratio = torch.rand(rows, canvases, generator=generator) * (1 - LEAST_NOISE) + LEAST_NOISE
    noisy = torch.rand(rows, length, generator=generator) < noise_ratio.repeat_interleave(CANVAS_LENGTH, dim=1)
    noise = torch.randint(len(VOCABULARY), (rows, length), generator=generator)
    canvas = torch.where(noisy, noise, target.clamp(min=0))
    return Batch(clean, prompt_tokens, next_token, canvas, target)


def losses(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the canvases, and of the answer read causally.

    The first half of the batch gets its own first guess as self-conditioning, the second half none.
    """
    hidden, cache = encode(model, batch.clean)
    masks = canvas_masks(model.config, batch.prompt_tokens, batch.clean.shape[1], batch.canvas.shape[1])
    half = batch.canvas.shape[0] // 2
    with torch.no_grad():
        guess = denoise(
            model,
            batch.canvas[:half],
            None,
            batch.prompt_tokens[:half],
            [(k[:half].detach(), v[:half].detach()) for k, v in cache],
            {kind: mask[:half] for kind, mask in masks.items()},
        )
        believed = model.soft_embeddings(guess).float()
        soft = torch.cat([believed, torch.zeros(batch.canvas.shape[0] - half, *believed.shape[1:])])
    logits = denoise(model, batch.canvas, soft, batch.prompt_tokens, cache, masks)
    denoising = F.cross_entropy(logits.flatten(0, 1), batch.target.flatten(), ignore_index=NOT_SUPERVISED)
    causal = F.cross_entropy(
        model.logits(hidden).flatten(0, 1), batch.next_token.flatten(), ignore_index=NOT_SUPERVISED
    )
    return denoising, causal


def encode(model: Transformer, clean: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The causal pass. clean: (batch, clean) int64; returns (batch, clean, hidden) and each layer's keys and values."""
    position = torch.arange(clean.shape[1])
    causal = position[:, None] >= position[None, :]
    near = causal & (position[:, None] - position[None, :] < model.config.sliding_window)
    cache: list[tuple[Tensor, Tensor]] = []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        cache.append((k, v))
        return kernels.attention(q, k, v, near if model.config.layers[layer].sliding else causal)

    everywhere = torch.ones(clean.shape, dtype=torch.bool)
    hidden = model.run_layers(model.embed_context(clean), position.expand_as(clean), everywhere, attend)
    return hidden, cache


def denoise(
    model: Transformer,
    canvas: Tensor,
    soft: Tensor | None,
    prompt_tokens: Tensor,
    cache: Sequence[tuple[Tensor, Tensor]],
    masks: dict[bool, Tensor],
) -> Tensor:
    """The bidirectional pass. canvas: (batch, canvas) int64; returns (batch, canvas, vocab) float32."""
    positions = prompt_tokens[:, None] + torch.arange(canvas.shape[1])

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        clean_k, clean_v = cache[layer]
        keys, values = torch.cat([clean_k, k], dim=1), torch.cat([clean_v, v], dim=1)
        return kernels.attention(q, keys, values, masks[model.config.layers[layer].sliding])

    nowhere = torch.zeros(canvas.shape, dtype=torch.bool)
    return model.logits(model.run_layers(model.embed_canvas(canvas, soft), positions, nowhere, attend))


def canvas_masks(config: ModelConfig, prompt_tokens: Tensor, clean: int, length: int) -> dict[bool, Tensor]:
    """(batch, canvas, clean + canvas) bool by kind of layer, sliding or not: a canvas sees itself and what came before.

    On sliding layers that is the last `sliding_window - 1` clean tokens, the same ones for the whole canvas.
    """
    number = torch.arange(length) // CANVAS_LENGTH
    start = (prompt_tokens[:, None] + number * CANVAS_LENGTH)[:, :, None]
    itself = (number[:, None] == number[None, :]).expand(len(prompt_tokens), -1, -1)
    before = torch.arange(clean) < start
    window = before & (torch.arange(clean) >= start - (config.sliding_window - 1))
    return {False: torch.cat([before, itself], dim=2), True: torch.cat([window, itself], dim=2)}
