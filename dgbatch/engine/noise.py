"""Counter-based random numbers: every draw is a function of (noise key, canvas, step, position) alone.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), in int64 arithmetic so that
a CPU and a GPU give the same bits. The key is the 64-bit noise key of the sample; the counter is
(0, position, step, canvas), so neighbours, retries and devices never change a number.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOW = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10


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


def draws(keys: Tensor, canvas: Tensor, steps: Tensor, length: int, vocab: int) -> tuple[Tensor, Tensor]:
    """Two random numbers for each position of each step: a fresh token, and a level for drawing one (sampler.draw).

    keys: (batch, 2) int64 words; canvas: (batch,) int64; steps: (batch, steps) int64
    returns: (batch, steps, length) int64 uniform in [0, vocab), and (batch, steps, length) float32 uniform in (0, 1)
    Token 0, 1, ... of a canvas's start belong to step 0, those put in after step k to step k + 1. A word is scaled to
    a token by multiply-and-shift: its probability is off by less than vocab / 2^32. A level is (a word's upper 23 bits
    + 1/2) / 2^23, never 0 or 1; with 24 bits the largest would round to 1 in float32.
    """
    position = torch.arange(length, device=keys.device)
    zero = torch.zeros((), dtype=torch.int64, device=keys.device)
    counter = (zero, position, steps[:, :, None], canvas[:, None, None])
    words = philox(counter, (keys[:, :1, None], keys[:, 1:, None]))
    return (words[0] * vocab) >> 32, ((words[1] >> 9).float() + 0.5) * 2.0**-23
