"""The words of the kernels are those of the twin, bit by bit."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from dgbatch.engine import noise
from dgbatch.engine.kernels.philox import level_of, philox, token_of
from dgbatch.engine.kernels.reference import philox as twin


@triton.jit
def _numbers(words, token, level, step, canvas, key_low, key_high, vocab, COUNT: tl.constexpr):
    position = tl.arange(0, COUNT)
    first, second = philox(position, step, canvas, key_low, key_high)
    tl.store(words + position, first.to(tl.int64))
    tl.store(words + COUNT + position, second.to(tl.int64))
    tl.store(token + position, token_of(first, vocab))
    tl.store(level + position, level_of(second))


@pytest.mark.parametrize("key", [0, 1, 2**32 - 1, 2**64 - 1, 0x0123456789ABCDEF, 0xFEDCBA9876543210])
@pytest.mark.parametrize(("step", "canvas"), [(0, 0), (47, 3), (2**31 - 2, 2**31 - 1)])
def test_words_tokens_and_levels_are_those_of_the_twin(key: int, step: int, canvas: int) -> None:
    low, high = torch.tensor(noise.split_key(key)).to(torch.int32).tolist()  # as Slots.numbers holds them
    words = torch.empty(2, 256, dtype=torch.int64)
    token, level = torch.empty(256, dtype=torch.int32), torch.empty(256)
    _numbers[(1,)](words, token, level, step, canvas, low, high, 262144, COUNT=256)
    counter = torch.tensor(0), torch.arange(256), torch.tensor(step), torch.tensor(canvas)
    exact = twin.philox(counter, tuple(torch.tensor(noise.split_key(key))))
    assert torch.equal(words, torch.stack(exact[:2]))
    assert torch.equal(token.long(), twin.token_of(exact[0], 262144))
    assert torch.equal(level, twin.level_of(exact[1]))
