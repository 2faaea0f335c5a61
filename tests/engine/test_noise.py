"""The counter-based noise: the published numbers, independence of company, and that it is noise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgbatch.engine import noise, sampler

KEYS = torch.tensor([noise.split_key(key) for key in (0, 1, 2**32, 2**64 - 1, 0x0123456789ABCDEF)])

GOLDEN_TOKENS = [31463, 3563, 240561, 144579, 34128, 160151]
GOLDEN_GUMBEL = [1.629613, 0.597577, -0.575448, -0.54882, -0.756578, 1.625537, 0.642445, -0.466895, 1.20302, 0.017675]


def numbers(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


# Known answers of Random123 (kat_vectors, philox4x32 10).
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_gives_the_known_answers(counter: str, key: str, answer: str) -> None:
    counters = tuple(torch.tensor(int(word, 16)) for word in counter.split())
    keys = tuple(torch.tensor(int(word, 16)) for word in key.split())
    assert [f"{word.item():08x}" for word in noise.philox(counters, keys)] == answer.split()


def test_uniform_tokens_and_gumbel_never_change_between_versions() -> None:
    """Golden: a changed number here changes every run that is resumed."""
    keys, one = numbers(*noise.split_key(0x0123456789ABCDEF))[None], numbers(1)
    assert noise.uniform_tokens(keys, one, numbers(2), 6, 262144).tolist() == [GOLDEN_TOKENS]
    given = noise.gumbel(keys, one, numbers(2), 2, 5).flatten()
    torch.testing.assert_close(given, torch.tensor(GOLDEN_GUMBEL), atol=1e-5, rtol=0)


@given(key=st.integers(0, 2**64 - 1))
def test_a_key_is_split_into_two_words_and_nothing_is_lost(key: int) -> None:
    low, high = noise.split_key(key)
    assert 0 <= low < 2**32 and 0 <= high < 2**32
    assert high << 32 | low == key


@settings(max_examples=40)
@given(order=st.permutations(range(len(KEYS))), size=st.integers(1, len(KEYS)), canvas=st.integers(0, 9))
def test_a_prompts_noise_does_not_depend_on_its_neighbours(order: list[int], size: int, canvas: int) -> None:
    canvases, steps = numbers(*range(canvas, canvas + len(KEYS))), numbers(7, 0, 3, 1, 2)
    some = order[:size]
    together = noise.uniform_tokens(KEYS[some], canvases[some], steps[some], 9, 100)
    gumbels = noise.gumbel(KEYS[some], canvases[some], steps[some], 9, 10)
    for place, index in enumerate(some):
        alone = KEYS[index][None], canvases[index][None], steps[index][None]
        assert torch.equal(together[place], noise.uniform_tokens(*alone, 9, 100)[0])
        assert torch.equal(gumbels[place], noise.gumbel(*alone, 9, 10)[0])


def test_a_longer_canvas_or_vocabulary_keeps_the_noise_of_the_shorter() -> None:
    zero = torch.zeros(len(KEYS), dtype=torch.int64)
    longer = noise.gumbel(KEYS, zero, zero, 12, 11)
    assert torch.equal(longer[:, :5, :7], noise.gumbel(KEYS, zero, zero, 5, 7))
    tokens = noise.uniform_tokens(KEYS, zero, zero, 12, 50)
    assert torch.equal(tokens[:, :5], noise.uniform_tokens(KEYS, zero, zero, 5, 50))


def test_keys_canvases_steps_positions_and_streams_all_differ() -> None:
    """Every word of a small grid of counters is its own: nothing is drawn twice."""
    counter = torch.cartesian_prod(torch.arange(4), torch.arange(8), torch.arange(5), torch.arange(6))
    words = [noise.philox(tuple(counter.T), tuple(key)) for key in KEYS]
    drawn = torch.stack([torch.stack(word, -1) for word in words])
    first_two = drawn[..., 0] << 31 | drawn[..., 1] >> 1
    assert len(first_two.unique()) == first_two.numel()


def test_next_step_next_canvas_and_other_key_draw_other_tokens() -> None:
    def draw(key: int, canvas: int, step: int) -> Tensor:
        return noise.uniform_tokens(KEYS[key][None], numbers(canvas), numbers(step), 64, 262144)[0]

    here = draw(1, 0, 0)
    for other in (draw(1, 0, 1), draw(1, 1, 0), draw(2, 0, 0), draw(0, 0, 0)):
        assert (here != other).sum() > 60


def test_fresh_tokens_and_sampling_noise_come_from_different_streams() -> None:
    """Token v = 0 of lane 0 has the same counter as a fresh token, but for the stream."""
    zero = numbers(0)
    vocab = 2**23
    tokens = noise.uniform_tokens(KEYS[:1], zero, zero, 100, vocab)[0]
    u = torch.exp(-torch.exp(-noise.gumbel(KEYS[:1], zero, zero, 100, 1)[0, :, 0].double()))
    assert ((u * vocab).long() - tokens).abs().min() > 10


def test_position_is_not_mixed_up_with_step_or_canvas() -> None:
    zero = torch.zeros(3, dtype=torch.int64)
    key = KEYS[:1].expand(3, 2)
    rows = noise.uniform_tokens(key, zero, numbers(0, 1, 2), 3, 2**31)
    assert not torch.equal(rows, rows.T)
    assert len(rows.unique()) == 9


def chi_square(counts: Tensor, expected: Tensor) -> float:
    return ((counts - expected) ** 2 / expected).sum().item()


def bound_of(freedom: int) -> float:
    """Above this a chi-square of so many degrees of freedom lies once in some ten thousand (Wilson-Hilferty)."""
    return freedom * (1 - 2 / (9 * freedom) + 3.8 * math.sqrt(2 / (9 * freedom))) ** 3


@pytest.mark.parametrize("vocab", [2, 7, 110])
def test_fresh_tokens_are_uniform(vocab: int) -> None:
    batch, length = 40, 500
    keys = torch.stack([torch.arange(batch), torch.arange(batch) % 3], -1)
    tokens = noise.uniform_tokens(keys, torch.arange(batch) % 5, torch.arange(batch) % 7, length, vocab)
    assert tokens.min() >= 0 and tokens.max() < vocab
    counts = torch.bincount(tokens.flatten(), minlength=vocab).double()
    assert chi_square(counts, torch.full((vocab,), batch * length / vocab).double()) < bound_of(vocab - 1)


def test_fresh_tokens_reach_both_ends_of_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    for word, token in ((0, 0), (noise.LOW, 262143)):
        monkeypatch.setattr(noise, "philox", lambda counter, key, word=word: (torch.full((1, 4), word),) * 4)
        assert noise.uniform_tokens(KEYS[:1], numbers(0), numbers(0), 4, 262144).tolist() == [[token] * 4]


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_drawn_tokens_follow_the_softmax_of_the_logits(spread: float) -> None:
    """13 tokens, so that a lane is cut; one draw per position of many canvases."""
    vocab, batch, length = 13, 60, 500
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(3)) * spread
    keys = torch.stack([torch.arange(batch) * 7919, torch.arange(batch)], -1)
    gumbel = noise.gumbel(keys, torch.arange(batch) % 4, torch.arange(batch) % 9, length, vocab)
    counts = torch.bincount(sampler.draw(logits, gumbel).flatten(), minlength=vocab).double()
    expected = logits.double().softmax(-1) * batch * length
    common = expected > 5
    assert chi_square(counts[common], expected[common]) < bound_of(int(common.sum()) - 1)
    assert counts[~common].sum() <= expected[~common].sum() + 5 * expected[~common].sum().sqrt() + 1


def test_no_word_makes_infinite_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """An infinity would win over every logit: a token drawn blindly once in 2^24, four positions of each 26B step."""
    for word in (0, 1, 255, 511, 512, 2**31, noise.LOW - 512, noise.LOW - 256, noise.LOW - 1, noise.LOW):
        monkeypatch.setattr(noise, "philox", lambda counter, key, word=word: (torch.full((1, 1, 1), word),) * 4)
        drawn = noise.gumbel(KEYS[:1], numbers(0), numbers(0), 1, 4)
        assert drawn.isfinite().all()
        assert drawn.min() > -3 and drawn.max() < 17


def test_sampling_noise_has_the_mean_and_spread_of_a_gumbel() -> None:
    drawn = noise.gumbel(KEYS, numbers(0, 1, 2, 3, 4), numbers(5, 6, 7, 8, 9), 400, 100).double()
    assert drawn.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert drawn.std().item() == pytest.approx(math.pi / math.sqrt(6), abs=0.02)
