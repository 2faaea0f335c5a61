"""Accepting, renoising, settling: exact facts, and what holds for any logits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgbatch.engine import sampler
from dgbatch.engine.sequence import Sequence
from tests.engine import tiny

VOCAB = 10_000


def peaks(*heights: float) -> Tensor:
    """One position per height: that logit at one token, zero elsewhere."""
    z = torch.zeros(1, len(heights), VOCAB)
    for position, height in enumerate(heights):
        z[0, position, 100 + position] = height
    return z


def decide(z: Tensor, bound: float) -> sampler.Decision:
    drawn = torch.full(z.shape[:2], 1)
    return sampler.next_canvas(sampler.believe(z), drawn, torch.full_like(drawn, 2), torch.full(z.shape[:1], bound))


@pytest.mark.parametrize(("height", "nats"), [(18.0, 2.9e-3), (14.5, 7.8e-2), (0.0, math.log(VOCAB))])
def test_entropy_of_one_high_logit_is_the_known_one(height: float, nats: float) -> None:
    assert sampler.believe(peaks(height)).entropy.item() == pytest.approx(nats, rel=0.03)


def test_entropy_does_not_move_when_all_logits_do() -> None:
    z = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(1)) * 3
    torch.testing.assert_close(sampler.believe(z + 60).entropy, sampler.believe(z).entropy, atol=1e-4, rtol=0)


def test_a_token_of_logit_minus_infinity_adds_no_entropy() -> None:
    z = torch.tensor([[[0.0, 0.0, -torch.inf]]])
    assert sampler.believe(z).entropy.item() == pytest.approx(math.log(2))


def test_ten_times_the_bound_accepts_exactly_one_position_more() -> None:
    z = peaks(18.0, 14.5, 14.5)  # entropies 2.9e-3, 7.8e-2, 7.8e-2
    assert decide(z, 1e-2).accepted.sum() == 2
    assert decide(z, 1e-1).accepted.sum() == 3


def test_nine_certain_positions_let_the_tenth_in() -> None:
    z = peaks(*[1000.0] * 9, 0.0, 0.0, 0.0)
    assert decide(z, 0.1).accepted.tolist() == [[True] * 10 + [False] * 2]


def test_a_sum_that_meets_the_bound_exactly_still_accepts() -> None:
    entropies = torch.tensor([[0.25, 0.5, 0.25, 4.0]])
    assert sampler.accept(entropies, torch.tensor([0.5])).tolist() == [[True, True, True, False]]
    assert sampler.accept(entropies, torch.tensor([0.4999])).tolist() == [[True, False, True, False]]


def test_ties_go_to_the_lower_position() -> None:
    entropies = torch.full((1, 300), 2.0)
    assert sampler.accept(entropies, torch.tensor([5.0])).nonzero()[:, 1].tolist() == [0, 1, 2]


def test_accepted_positions_keep_the_drawn_token_and_all_others_get_fresh_noise() -> None:
    decision = decide(peaks(0.0, 1000.0, 0.0, 18.0), 0.0)
    assert decision.accepted.tolist() == [[False, True, False, True]]  # before the second lies a sum of exactly 0
    assert decision.next_canvas.tolist() == [[2, 1, 2, 1]]
    assert decision.argmax.tolist() == [[0, 101, 0, 103]]


def test_every_canvas_of_a_batch_has_its_own_bound() -> None:
    z = torch.cat([peaks(14.5, 14.5, 14.5)] * 3)
    tokens = torch.zeros(3, 3, dtype=torch.int64)
    decision = sampler.next_canvas(sampler.believe(z), tokens, tokens, torch.tensor([0.01, 0.1, 1.0]))
    assert decision.accepted.sum(-1).tolist() == [1, 2, 3]


@st.composite
def entropies(draw: st.DrawFn) -> Tensor:
    """(batch, canvas) nats, with ties and zeros."""
    batch, canvas = draw(st.integers(1, 4)), draw(st.integers(1, 20))
    nats = st.sampled_from([0.0, 0.001, 0.05, 0.1]) | st.floats(
        0.125, 12.0, width=32
    )  # above the rounding of their sums
    rows = st.lists(nats, min_size=canvas, max_size=canvas)
    return torch.tensor(draw(st.lists(rows, min_size=batch, max_size=batch)), dtype=torch.float32)


@given(nats=entropies(), bound=st.floats(0.0, 20.0, width=32))
def test_the_surest_positions_are_accepted_up_to_the_exclusive_sum(nats: Tensor, bound: float) -> None:
    accepted = sampler.accept(nats, torch.full(nats.shape[:1], bound))
    for row, marks in zip(nats, accepted, strict=True):
        kept, left = row[marks], row[~marks]
        assert len(kept) >= 1
        if len(left):
            assert kept.max() <= left.min()
            assert kept.double().sum() > bound - 1e-3  # one more would have had this sum before it
        assert kept.double().sum() - kept.max() <= bound + 1e-3


@given(nats=entropies(), bound=st.floats(0.0, 5.0, width=32), more=st.floats(0.0, 5.0, width=32))
def test_a_higher_bound_never_accepts_less(nats: Tensor, bound: float, more: float) -> None:
    lower = sampler.accept(nats, torch.full(nats.shape[:1], bound))
    higher = sampler.accept(nats, torch.full(nats.shape[:1], bound + more))
    assert (lower <= higher).all()


@settings(max_examples=50)
@given(nats=entropies())
def test_rows_of_a_batch_are_decided_alone(nats: Tensor) -> None:
    bound = torch.full(nats.shape[:1], 0.3)
    together = sampler.accept(nats, bound)
    alone = torch.cat([sampler.accept(row[None], bound[:1]) for row in nats])
    assert torch.equal(together, alone)


def test_mean_entropy_is_over_all_positions() -> None:
    decision = decide(peaks(1000.0, 0.0), 0.1)
    assert decision.mean_entropy.item() == pytest.approx(math.log(VOCAB) / 2, rel=1e-5)


def test_temperature_falls_in_a_line_from_start_towards_end() -> None:
    own = tiny.settings(max_denoising_steps=48, temperature_start=0.8, temperature_end=0.4)
    assert sampler.temperature_at(0, own) == pytest.approx(0.8)
    assert sampler.temperature_at(24, own) == pytest.approx(0.6)
    assert sampler.temperature_at(47, own) == pytest.approx(0.408333, abs=1e-6)


def settles_at(argmaxes: list[int], mean_entropy: float, stability: int, confidence: float = 0.005) -> int | None:
    """The step, from 1, at which a canvas with these argmaxes settles."""
    own = tiny.settings(stability=stability, confidence=confidence)
    sequence, previous = Sequence(tiny.prompt(0), own, [1], frozenset()), None
    for step, argmax in enumerate(argmaxes, start=1):
        sequence.stepped(argmax == previous)
        previous = argmax
        if sampler.is_settled(sequence.still, mean_entropy, own):
            return step
    return None


@pytest.mark.parametrize(("stability", "step"), [(0, 1), (1, 2), (2, 3), (3, 4)])
def test_a_sure_canvas_settles_after_its_stability(stability: int, step: int) -> None:
    assert settles_at([5] * 6, 0.001, stability) == step


def test_a_change_of_the_argmax_starts_the_count_again() -> None:
    assert settles_at([5, 5, 6, 6, 6], 0.001, stability=2) == 5
    assert settles_at([5, 6, 5, 6, 5], 0.001, stability=1) is None


def test_an_unsure_canvas_does_not_settle_however_still_it_stands() -> None:
    assert settles_at([5] * 10, 0.005, stability=1) is None
    assert settles_at([5] * 10, 0.0049, stability=1) == 2


def test_confidence_zero_never_settles() -> None:
    assert settles_at([5] * 10, 0.0, stability=0, confidence=0.0) is None


@st.composite
def probabilities(draw: st.DrawFn) -> Tensor:
    """(vocab,) float32, with zeros at either end and between; a softmax's sum is off by a few last bits."""
    weights = draw(st.lists(st.just(0.0) | st.floats(0.001, 1.0), min_size=1, max_size=30).filter(any))
    return torch.tensor(weights).div(sum(weights)).mul(draw(st.sampled_from([1 - 2e-6, 1.0, 1 + 2e-6])))


FIRST, LAST = 2.0**-24, 1 - 2.0**-24  # the levels at both ends of what noise.draws gives


@pytest.mark.parametrize(("level", "token"), [(FIRST, 1), (0.25, 1), (0.2501, 2), (0.5, 2), (0.5001, 4), (LAST, 4)])
def test_the_first_token_that_reaches_the_level_is_drawn(level: float, token: int) -> None:
    p = torch.tensor([0.0, 0.25, 0.25, 0.0, 0.5, 0.0])
    assert sampler.draw(p, torch.tensor(level)).item() == token


@given(p=probabilities())
def test_evenly_spread_levels_draw_each_token_in_proportion_to_its_probability(p: Tensor) -> None:
    levels = (torch.arange(4096) + 0.5) / 4096
    drawn = sampler.draw(p.expand(4096, -1), levels)
    share = torch.bincount(drawn, minlength=len(p)) / 4096
    torch.testing.assert_close(share, p / p.sum(), atol=1.01 / 4096, rtol=0)
    assert (p[drawn] > 0).all()
    assert (drawn[1:] >= drawn[:-1]).all()


@given(p=probabilities())
def test_the_lowest_and_the_highest_level_draw_the_first_and_the_last_token_there_is(p: Tensor) -> None:
    possible = p.nonzero().flatten()
    assert sampler.draw(p.expand(2, -1), torch.tensor([FIRST, LAST])).tolist() == possible[[0, -1]].tolist()


def test_a_large_flat_vocabulary_is_drawn_to_its_ends() -> None:
    p = torch.full((262_144,), 1.0).log_softmax(-1).exp()
    assert sampler.draw(p.expand(2, -1), torch.tensor([FIRST, LAST])).tolist() == [0, 262_143]


def test_a_draw_takes_every_positions_own_level_and_probabilities() -> None:
    p = torch.tensor([[[0.9, 0.1], [0.1, 0.9]], [[0.5, 0.5], [0.0, 1.0]]])
    level = torch.tensor([[0.95, 0.5], [0.4, 0.01]])
    assert sampler.draw(p, level).tolist() == [[1, 1], [0, 1]]


@settings(max_examples=40)
@given(seed=st.integers(0, 1000), batch=st.integers(1, 3), spread=st.sampled_from([0.0, 1.0, 10.0]))
def test_what_a_step_believes_is_the_softmax_its_entropy_and_its_argmax(seed: int, batch: int, spread: float) -> None:
    z = torch.randn(batch, 4, 50, generator=torch.Generator().manual_seed(seed)) * spread
    belief = sampler.believe(z)
    exact = torch.distributions.Categorical(logits=z.double())
    torch.testing.assert_close(belief.p.double(), exact.probs, atol=1e-6, rtol=0)
    torch.testing.assert_close(belief.entropy.double(), exact.entropy(), atol=1e-5, rtol=0)
    assert torch.equal(belief.argmax, z.argmax(-1))


@settings(max_examples=40)
@given(banned=st.sets(st.integers(0, 19), max_size=19), seed=st.integers(0, 1000))
def test_a_token_of_logit_minus_infinity_is_never_believed_nor_drawn(banned: set[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(1, 64, 20, generator=generator)
    z[..., sorted(banned)] = -torch.inf
    belief = sampler.believe(z)
    level = torch.rand(1, 64, generator=generator).clamp(FIRST, LAST)
    level[0, :2] = torch.tensor([FIRST, LAST])
    assert belief.entropy.isfinite().all()
    assert belief.p[..., sorted(banned)].sum() == 0
    assert banned.isdisjoint(belief.argmax.flatten().tolist())
    assert banned.isdisjoint(sampler.draw(belief.p, level).flatten().tolist())
