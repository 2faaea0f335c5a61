"""Counter-based random numbers: every draw is a function of (noise key, canvas, step, position) alone.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), in int64 arithmetic so that
a CPU and a GPU give the same bits. The key is the 64-bit noise key of the sample; the counter is
(lane, position, step, canvas * 2 + stream), so neighbours, retries and devices never change a number.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOW = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
TOKENS, GUMBEL = 0, 1  # the two streams: fresh tokens, and noise for sampling


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Four random words per counter. All tensors int64 holding unsigned 32 bits, broadcast against each other."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # A product of two 32-bit words wraps in int64, but its bits are right; the mask undoes the sign.
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> 32 & LOW) ^ c1 ^ k0, p1 & LOW, (p0 >> 32 & LOW) ^ c3 ^ k1, p0 & LOW
        k0, k1 = k0 + KEY_STEPS[0] & LOW, k1 + KEY_STEPS[1] & LOW
    return c0, c1, c2, c3


def split_key(noise_key: int) -> tuple[int, int]:
    """The two 32-bit words of an unsigned 64-bit noise key, low word first."""
    return noise_key & LOW, noise_key >> 32 & LOW


def uniform_tokens(keys: Tensor, canvas: Tensor, step: Tensor, length: int, vocab: int) -> Tensor:
    """Uniform token ids, for a canvas's start (step 0) and for renoising after a step (1, 2, ...).

    keys: (batch, 2) int64 words; canvas, step: (batch,) int64; returns (batch, length) int64 in [0, vocab).
    A word is scaled by multiply-and-shift: a token's probability is off by less than vocab / 2^32.
    """
    position = torch.arange(length, device=keys.device)
    zero = torch.zeros((), dtype=torch.int64, device=keys.device)
    counter = (zero, position, step[:, None], canvas[:, None] * 2 + TOKENS)
    word = philox(counter, (keys[:, :1], keys[:, 1:]))[0]
    return (word * vocab) >> 32


def gumbel(keys: Tensor, canvas: Tensor, step: Tensor, length: int, vocab: int) -> Tensor:
    """-log(-log u) for every position and token: argmax(logits + this) is a draw from softmax(logits).

    keys: (batch, 2) int64 words; canvas, step: (batch,) int64; returns (batch, length, vocab) float32.
    Token v uses word v % 4 of the lane v // 4; u = (word's upper 23 bits + 1/2) / 2^23 is never 0 or 1. With 24 bits
    the largest would round to 1 in float32, and its infinite noise would win over every logit.
    """
    lanes = -(-vocab // 4)
    lane = torch.arange(lanes, device=keys.device)
    position = torch.arange(length, device=keys.device)[:, None]
    counter = (lane, position, step[:, None, None], canvas[:, None, None] * 2 + GUMBEL)
    words = torch.stack(philox(counter, (keys[:, :1, None], keys[:, 1:, None])), dim=-1)
    u = ((words.flatten(-2)[..., :vocab] >> 9).float() + 0.5) * 2.0**-23
    return -torch.log(-torch.log(u))
