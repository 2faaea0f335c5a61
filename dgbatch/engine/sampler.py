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


def entropy(z: Tensor) -> Tensor:
    """Nats of softmax(z). z: (..., vocab) float32; returns (...) float32."""
    log_p = z.log_softmax(-1)
    return -(log_p.exp() * log_p).nan_to_num(0.0).sum(-1)  # 0 * -inf where a token is banned


def accept(entropies: Tensor, bound: Tensor) -> Tensor:
    """The surest positions, as long as the entropies before them sum to at most the bound.

    entropies: (batch, canvas) float32; bound: (batch,) float32, nats; returns (batch, canvas) bool.
    The surest is always accepted, and so is the first that crosses the bound. Ties go to the lower position.
    """
    ordered, order = entropies.sort(dim=-1, stable=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before <= bound[:, None])


def draw(z: Tensor, gumbel: Tensor) -> Tensor:
    """One token per position from softmax(z), by the Gumbel-max trick.

    z, gumbel: (..., vocab) float32; returns (...) int64
    """
    return (z + gumbel).argmax(-1)


def next_canvas(z: Tensor, drawn: Tensor, fresh: Tensor, bound: Tensor) -> Decision:
    """Keep the tokens the model is sure of and put fresh noise in every other position.

    z:     (batch, canvas, vocab) float32, softcapped logits over this step's temperature
    drawn: (batch, canvas) int64, one token per position sampled from softmax(z)
    fresh: (batch, canvas) int64, uniform over the vocabulary
    bound: (batch,) float32, nats
    """
    entropies = entropy(z)
    accepted = accept(entropies, bound)
    return Decision(
        argmax=z.argmax(-1),
        accepted=accepted,
        next_canvas=torch.where(accepted, drawn, fresh),
        mean_entropy=entropies.mean(-1),
    )


def is_settled(still: int, mean_entropy: float, settings: Settings) -> bool:
    """Whether a canvas is done: its argmax stood still for `stability` steps and it is confident.

    still: how many steps in a row the argmax equalled the one before it; mean_entropy: nats.
    """
    return still >= settings.stability and mean_entropy < settings.confidence
