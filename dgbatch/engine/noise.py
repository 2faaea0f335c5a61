"""Counter-based random numbers: every draw is a function of (noise key, canvas, step, position) alone.

The words are Philox's (kernels/reference/philox.py). The key is the 64-bit noise key of the sample; the counter is
(0, position, step, canvas), so neighbours, retries and devices never change a number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dgbatch.engine.kernels.reference.philox import LOW, level_of, philox, token_of


def split_key(noise_key: int) -> tuple[int, int]:
    """The two 32-bit words of an unsigned 64-bit noise key, low word first."""
    return noise_key & LOW, noise_key >> 32 & LOW


def draws(keys: Tensor, canvas: Tensor, steps: Tensor, length: int, vocab: int) -> tuple[Tensor, Tensor]:
    """Two random numbers for each position of each step: a fresh token, and a level for drawing one (sampler.draw).

    keys: (batch, 2) int64 words; canvas: (batch,) int64; steps: (batch, steps) int64
    returns: (batch, steps, length) int64 uniform in [0, vocab), and (batch, steps, length) float32 uniform in (0, 1)
    Token 0, 1, ... of a canvas's start belong to step 0, those put in after step k to step k + 1.
    """
    position = torch.arange(length, device=keys.device)
    zero = torch.zeros((), dtype=torch.int64, device=keys.device)
    counter = (zero, position, steps[:, :, None], canvas[:, None, None])
    words = philox(counter, (keys[:, :1, None], keys[:, 1:, None]))
    return token_of(words[0], vocab), level_of(words[1])
