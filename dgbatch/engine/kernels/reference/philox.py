"""Counter-based random words, and the two numbers that a denoising step makes of them.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), in int64 arithmetic so that
a CPU and a GPU give the same bits.
"""

from __future__ import annotations

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


def token_of(word: Tensor, vocab: int) -> Tensor:
    """A word scaled to a token by multiply-and-shift: its probability is off by less than vocab / 2^32."""
    return (word * vocab) >> 32


def level_of(word: Tensor) -> Tensor:
    """(its upper 23 bits + 1/2) / 2^23, float32: never 0 or 1; with 24 bits the largest would round to 1."""
    return ((word >> 9).float() + 0.5) * 2.0**-23
