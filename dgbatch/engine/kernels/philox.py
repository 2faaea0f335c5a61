"""Philox4x32-10 inside of kernels: the words of reference/philox.py, in 32-bit arithmetic."""

from __future__ import annotations

import triton
import triton.language as tl

from dgbatch.engine.kernels.reference.philox import KEY_STEPS, MULTIPLIERS, ROUNDS

_MULTIPLIER_0, _MULTIPLIER_1 = tl.constexpr(MULTIPLIERS[0]), tl.constexpr(MULTIPLIERS[1])
_STEP_0, _STEP_1 = tl.constexpr(KEY_STEPS[0]), tl.constexpr(KEY_STEPS[1])
_ROUNDS = tl.constexpr(ROUNDS)


@triton.jit
def philox(position, step, canvas, key_low, key_high):
    """Words 0 and 1 at (0, position, step, canvas), (any,) uint32 each. position: (any,) int32; all others int32."""
    c1 = position.to(tl.uint32)
    c0 = c1 * 0
    c2, c3 = c0 + tl.cast(step, tl.uint32), c0 + tl.cast(canvas, tl.uint32)
    k0, k1 = key_low.to(tl.uint32), key_high.to(tl.uint32)
    for _ in tl.static_range(_ROUNDS):
        high_0, high_1 = tl.umulhi(c0, _MULTIPLIER_0), tl.umulhi(c2, _MULTIPLIER_1)
        low_0, low_1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0
        k0, k1 = k0 + _STEP_0, k1 + _STEP_1
    return c0, c1


@triton.jit
def token_of(word, vocab):
    """(any,) int32 in [0, vocab)."""
    return tl.umulhi(word, word * 0 + vocab.to(tl.uint32)).to(tl.int32)


@triton.jit
def level_of(word):
    """(any,) float32 in (0, 1)."""
    return ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07  # 2^-23
