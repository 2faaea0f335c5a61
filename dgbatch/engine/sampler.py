"""One denoising decision: sample, accept the sure positions, renoise the rest, settle.

The entropy-bound sampler of DiffusionGemma (transformers 5.23, `EntropyBoundSampler`; arXiv 2505.24857).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dgbatch.records import Settings


@dataclass(frozen=True, slots=True)
class Decision:
    """What one step decided. All tensors have the batch axis first."""

    argmax: Tensor  # (batch, canvas) int64: the text, should the canvas settle now
    accepted: Tensor  # (batch, canvas) bool
    next_canvas: Tensor  # (batch, canvas) int64
    mean_entropy: Tensor  # (batch,) float32, nats


def temperature_at(step: int, settings: Settings) -> float:
    """The temperature of step 0, 1, ...: falls from start towards end, which it never quite reaches."""
    n = settings.max_denoising_steps
    start, end = settings.temperature_start, settings.temperature_end
    return end + (start - end) * (n - step) / n


@dataclass(frozen=True, slots=True)
class Belief:
    """What the model believes of each position, at this step's temperature."""

    p: Tensor  # (batch, canvas, vocab) float32, sums to 1
    entropy: Tensor  # (batch, canvas) float32, nats
    argmax: Tensor  # (batch, canvas) int64


def believe(z: Tensor) -> Belief:
    """z: (batch, canvas, vocab) float32, softcapped, over this step's temperature; -inf where a token is banned."""
    log_p = z.log_softmax(-1)
    p = log_p.exp()
    # 0 * -inf where a token is banned
    return Belief(p, -(p * log_p.clamp_min(-1e4)).sum(-1), z.argmax(-1))


def accept(entropies: Tensor, bound: Tensor) -> Tensor:
    """The surest positions, as long as the entropies before them sum to at most the bound.

    entropies: (batch, canvas) float32; bound: (batch,) float32, nats; returns (batch, canvas) bool.
    The surest is always accepted, and so is the first that crosses the bound. Ties go to the lower position.
    """
    ordered, order = entropies.sort(dim=-1, stable=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before <= bound[:, None])


def draw(p: Tensor, level: Tensor) -> Tensor:
    """One token per position: the first whose cumulated probability reaches the level, so never one of no probability.

    p: (..., vocab) float32; level: (...) float32 in (0, 1); returns (...) int64
    """
    cumulated = p.cumsum(-1)
    return torch.searchsorted(cumulated, level.unsqueeze(-1) * cumulated[..., -1:]).squeeze(-1)


def next_canvas(belief: Belief, drawn: Tensor, fresh: Tensor, bound: Tensor) -> Decision:
    """Keep the tokens the model is sure of and put fresh noise in every other position.

    drawn: (batch, canvas) int64, one token per position sampled from what the model believes
    fresh: (batch, canvas) int64, uniform over the vocabulary
    bound: (batch,) float32, nats
    """
    accepted = accept(belief.entropy, bound)
    return Decision(belief.argmax, accepted, torch.where(accepted, drawn, fresh), belief.entropy.mean(-1))


def is_settled(still: int, mean_entropy: float, settings: Settings) -> bool:
    """Whether a canvas is done: its argmax stood still for `stability` steps and it is confident.

    still: how many steps in a row the argmax equalled the one before it; mean_entropy: nats.
    """
    return still >= settings.stability and mean_entropy < settings.confidence
