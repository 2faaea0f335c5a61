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

GOLDEN_TOKENS = [33747, 93516, 54895, 107374, 63759, 147368]
GOLDEN_LEVELS = [odd / 2**24 for odd in (15295101, 6146801, 9630295, 15427625, 8612779, 12362479)]


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


def test_draws_never_change_between_versions() -> None:
    """Golden: a changed number here changes every run that is resumed."""
    keys = numbers(*noise.split_key(0x0123456789ABCDEF))[None]
    tokens, levels = noise.draws(keys, numbers(1), numbers(2)[None], 6, 262144)
    assert tokens.tolist() == [[GOLDEN_TOKENS]]
    assert levels.tolist() == [[GOLDEN_LEVELS]]


@given(key=st.integers(0, 2**64 - 1))
def test_a_key_is_split_into_two_words_and_nothing_is_lost(key: int) -> None:
    low, high = noise.split_key(key)
    assert 0 <= low < 2**32 and 0 <= high < 2**32
    assert high << 32 | low == key


@settings(max_examples=40)
@given(order=st.permutations(range(len(KEYS))), size=st.integers(1, len(KEYS)), canvas=st.integers(0, 9))
def test_a_prompts_noise_does_not_depend_on_its_neighbours(order: list[int], size: int, canvas: int) -> None:
    canvases = numbers(*range(canvas, canvas + len(KEYS)))
    steps = torch.stack([numbers(7, 0, 3, 1, 2), numbers(8, 5, 3, 40, 0)], -1)
    some = order[:size]
    together = noise.draws(KEYS[some], canvases[some], steps[some], 9, 100)
    for place, index in enumerate(some):
        alone = noise.draws(KEYS[index][None], canvases[index][None], steps[index][None], 9, 100)
        for ours, exact in zip(together, alone, strict=True):
            assert torch.equal(ours[place], exact[0])


def test_steps_asked_together_are_those_asked_one_by_one() -> None:
    steps = torch.arange(9)[None]
    tokens, levels = noise.draws(KEYS[:1], numbers(3), steps, 7, 100)
    for step in range(9):
        alone = noise.draws(KEYS[:1], numbers(3), steps[:, step : step + 1], 7, 100)
        assert torch.equal(tokens[:, step], alone[0][:, 0])
        assert torch.equal(levels[:, step], alone[1][:, 0])


def test_a_longer_canvas_keeps_the_noise_of_the_shorter_and_a_level_knows_no_vocabulary() -> None:
    zero = torch.zeros(len(KEYS), dtype=torch.int64)
    tokens, levels = noise.draws(KEYS, zero, zero[:, None], 12, 50)
    shorter, same = noise.draws(KEYS, zero, zero[:, None], 5, 50)
    assert torch.equal(tokens[..., :5], shorter)
    assert torch.equal(levels[..., :5], same)
    assert torch.equal(levels, noise.draws(KEYS, zero, zero[:, None], 12, 2**18)[1])


def test_every_word_of_a_grid_of_counters_is_its_own() -> None:
    counter = torch.cartesian_prod(torch.arange(4), torch.arange(8), torch.arange(5), torch.arange(6))
    words = [noise.philox(tuple(counter.T), tuple(key)) for key in KEYS]
    drawn = torch.stack([torch.stack(word, -1) for word in words])
    first_two = drawn[..., 0] << 31 | drawn[..., 1] >> 1
    assert len(first_two.unique()) == first_two.numel()


def test_next_step_next_canvas_and_other_key_draw_others() -> None:
    def draw(key: int, canvas: int, step: int) -> tuple[Tensor, Tensor]:
        return noise.draws(KEYS[key][None], numbers(canvas), numbers(step)[None], 64, 262144)

    here = draw(1, 0, 0)
    for other in (draw(1, 0, 1), draw(1, 1, 0), draw(2, 0, 0), draw(0, 0, 0)):
        for mine, theirs in zip(here, other, strict=True):
            assert (mine != theirs).sum() > 60


def test_a_fresh_token_says_nothing_about_the_level_beside_it() -> None:
    tokens, levels = noise.draws(KEYS, numbers(0, 1, 2, 3, 4), torch.arange(40).expand(5, -1), 100, 2**23)
    together = torch.stack([tokens.double().flatten(), levels.double().flatten()])
    assert torch.corrcoef(together)[0, 1].abs() < 0.03  # four spreads of 20,000 independent pairs


def test_position_is_not_mixed_up_with_step_or_canvas() -> None:
    """A grid of positions by steps, and one of positions by canvases: no row is another's column."""
    zero = torch.zeros(3, dtype=torch.int64)
    key = KEYS[:1].expand(3, 2)
    for canvases, steps in ((zero, numbers(0, 1, 2)), (numbers(0, 1, 2), zero)):
        for grid in noise.draws(key, canvases, steps[:, None], 3, 2**31):
            assert len(grid.unique()) == 9


def chi_square(counts: Tensor, expected: Tensor) -> float:
    return ((counts - expected) ** 2 / expected).sum().item()


def bound_of(freedom: int) -> float:
    """Above this a chi-square of so many degrees of freedom lies once in some ten thousand (Wilson-Hilferty)."""
    return freedom * (1 - 2 / (9 * freedom) + 3.8 * math.sqrt(2 / (9 * freedom))) ** 3


def many() -> tuple[Tensor, Tensor, Tensor]:
    """Forty keys, each with five steps of some canvas."""
    keys = torch.arange(40)
    return torch.stack([keys * 7919, keys % 3], -1), keys % 5, keys[:, None] % 7 + torch.arange(5)


@pytest.mark.parametrize("vocab", [2, 7, 110])
def test_fresh_tokens_are_uniform(vocab: int) -> None:
    tokens, _ = noise.draws(*many(), 100, vocab)
    assert tokens.min() >= 0 and tokens.max() < vocab
    counts = torch.bincount(tokens.flatten(), minlength=vocab).double()
    assert chi_square(counts, torch.full_like(counts, tokens.numel() / vocab)) < bound_of(vocab - 1)


@pytest.mark.parametrize("cells", [2, 10, 64])
def test_levels_are_uniform(cells: int) -> None:
    _, levels = noise.draws(*many(), 100, 50)
    assert levels.min() > 0 and levels.max() < 1
    counts = torch.bincount((levels.flatten() * cells).long(), minlength=cells).double()
    assert chi_square(counts, torch.full_like(counts, levels.numel() / cells)) < bound_of(cells - 1)


@pytest.mark.parametrize(("word", "token", "level"), [(0, 0, 2.0**-24), (noise.LOW, 262143, 1 - 2.0**-24)])
def test_tokens_reach_both_ends_and_levels_never_do(
    monkeypatch: pytest.MonkeyPatch, word: int, token: int, level: float
) -> None:
    monkeypatch.setattr(noise, "philox", lambda counter, key: (torch.full((1, 1, 4), word),) * 4)
    tokens, levels = noise.draws(KEYS[:1], numbers(0), numbers(0)[None], 4, 262144)
    assert tokens.tolist() == [[[token] * 4]]
    assert levels.dtype == torch.float32
    assert levels.tolist() == [[[level] * 4]]


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_drawn_tokens_follow_the_softmax_of_the_logits(spread: float) -> None:
    """What noise and sampler make together, one draw per position of many canvases."""
    vocab = 13
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(3)) * spread
    _, levels = noise.draws(*many(), 100, vocab)
    p = logits.softmax(-1).expand(*levels.shape, -1)
    counts = torch.bincount(sampler.draw(p, levels).flatten(), minlength=vocab).double()
    expected = logits.double().softmax(-1) * levels.numel()
    common = expected > 5
    assert chi_square(counts[common], expected[common]) < bound_of(int(common.sum()) - 1)
    assert counts[~common].sum() <= expected[~common].sum() + 5 * expected[~common].sum().sqrt() + 1
