"""The canvases in flight: each step against the sampler and the noise asked directly, slot by slot."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor

from dgbatch.engine import noise, sampler
from dgbatch.engine.canvases import NOISE_STEPS, Canvases, Outcome
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.sequence import Sequence
from tests.engine import tiny

VOCAB, LENGTH = len(tiny.VOCABULARY), tiny.CANVAS
MANY_STEPS = 3 * NOISE_STEPS + 1  # noise is drawn anew three times
SETTINGS = tiny.settings(max_denoising_steps=MANY_STEPS, entropy_bound=1.0)


def sequence(number: int, slot: int, **changes: object) -> Sequence:
    own = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    return Sequence(tiny.prompt(number), own, [1], frozenset(), slot=slot, canvas=number)


def logits(seed: int, batch: int = 1, rows: int = 2 * LENGTH) -> Tensor:
    """As a pass hands them over, padding included: some positions sure, some not."""
    generator = torch.Generator().manual_seed(seed)
    sharp = torch.rand(batch, rows, 1, generator=generator) * 12
    return torch.randn(batch, rows, VOCAB, generator=generator) * sharp


def asked(one: Sequence, step: int) -> tuple[Tensor, Tensor]:
    """The noise of one step, asked for by itself: fresh tokens and levels."""
    key, number = torch.tensor([noise.split_key(one.prompt.noise_key)]), torch.tensor([one.canvas])
    tokens, levels = noise.draws(key, number, torch.tensor([[step]]), LENGTH, VOCAB)
    return tokens[0, 0], levels[0, 0]


def state(canvases: Canvases, slot: int) -> list[Tensor]:
    return [part[slot].clone() for part in (canvases.tokens, canvases.argmax, canvases.first_accepted, canvases.soft)]


def assert_equal(ours: list[Tensor], exact: list[Tensor]) -> None:
    for one, other in zip(ours, exact, strict=True):
        assert torch.equal(one, other)


def step(canvases: Canvases, sequences: list[Sequence], z: Tensor) -> list[Outcome]:
    """One step of these, which then count it."""
    outcomes = canvases.step(sequences, z.clone())
    for one, outcome in zip(sequences, outcomes, strict=True):
        one.stepped(outcome.unchanged)
    return outcomes


def test_a_fresh_canvas_is_the_noise_of_step_zero_and_believes_nothing(model: Transformer) -> None:
    canvases, one = Canvases(model, 3, []), sequence(2, slot=1)
    canvases.lay([one])
    tokens, argmax, first, soft = state(canvases, 1)
    assert torch.equal(tokens, asked(one, 0)[0])
    assert argmax.tolist() == first.tolist() == [-1] * LENGTH
    assert soft.abs().sum() == 0


def test_every_step_of_a_long_canvas_is_the_samplers_decision_on_noise_asked_directly(model: Transformer) -> None:
    """25 steps, so that each block of noise begins and ends within them."""
    canvases, one = Canvases(model, 2, []), sequence(5, slot=1)
    canvases.lay([one])
    previous, first = torch.full((LENGTH,), -1), torch.full((LENGTH,), -1)
    for number in range(MANY_STEPS):
        z = logits(number // 2)  # each twice, so that an argmax stands still
        divided = z[:, :LENGTH] / torch.tensor(sampler.temperature_at(number, one.settings))
        belief = sampler.believe(divided)
        drawn = sampler.draw(belief.p, asked(one, number)[1][None])
        fresh = asked(one, number + 1)[0][None]
        exact = sampler.next_canvas(belief, drawn, fresh, torch.tensor([one.settings.entropy_bound]))
        (outcome,) = step(canvases, [one], z)
        first = torch.where(exact.accepted[0] & (first < 0), drawn[0], first)
        tokens, argmax, accepted_first, soft = state(canvases, 1)
        assert torch.equal(tokens, exact.next_canvas[0])
        assert torch.equal(argmax, exact.argmax[0])
        assert torch.equal(accepted_first, first)
        torch.testing.assert_close(soft, model.soft_embeddings(belief.p)[0], atol=1e-6, rtol=0)
        assert outcome.unchanged == torch.equal(exact.argmax[0], previous)
        assert outcome.mean_entropy == pytest.approx(exact.mean_entropy.item(), abs=1e-6)
        previous = exact.argmax[0]
    assert (first >= 0).any()
    assert canvases.settled(one) == (previous.tolist(), first.tolist())


def test_the_next_canvas_of_a_sequence_has_noise_of_its_own_and_forgets_the_last(model: Transformer) -> None:
    canvases, one = Canvases(model, 1, []), sequence(0, slot=0)
    canvases.lay([one])
    before = state(canvases, 0)
    step(canvases, [one], logits(1))
    one.emit([1] * LENGTH)
    canvases.lay([one])
    after = state(canvases, 0)
    assert torch.equal(after[0], asked(one, 0)[0])
    assert not torch.equal(after[0], before[0])
    assert_equal(after[1:], before[1:])


def test_what_a_position_was_first_sure_of_stays_although_it_changes_its_mind(model: Transformer) -> None:
    canvases, one = Canvases(model, 1, []), sequence(0, slot=0)
    canvases.lay([one])

    def sure_of(token: int) -> Tensor:
        z = torch.zeros(1, 2 * LENGTH, VOCAB)
        z[:, 0, token] = 100.0
        return z

    one.settings = replace(one.settings, entropy_bound=0.0)
    for token in (7, 9):
        step(canvases, [one], sure_of(token))
    argmax, first = canvases.settled(one)
    assert (argmax[0], first[0]) == (9, 7)
    assert canvases.tokens[0, 0] == 9
    assert first.count(-1) == LENGTH - 2  # the surest position is accepted, and the first that crosses the bound


def test_greedy_takes_the_likeliest_token_and_leaves_its_neighbour_alone(model: Transformer) -> None:
    bound = {"entropy_bound": 1e9}  # everything is accepted
    greedy, other, alone = sequence(1, 0, greedy=True, **bound), sequence(2, 1, **bound), sequence(2, 1, **bound)
    together, apart = Canvases(model, 2, []), Canvases(model, 2, [])
    together.lay([greedy, other])
    apart.lay([alone])
    z = logits(3, batch=2) / 9
    step(together, [greedy, other], z)
    step(apart, [alone], z[1:])
    assert torch.equal(together.tokens[0], z[0, :LENGTH].argmax(-1))
    assert not torch.equal(together.tokens[1], z[1, :LENGTH].argmax(-1))
    assert_equal(state(together, 1), state(apart, 1))


@pytest.mark.parametrize("greedy", [False, True])
def test_a_banned_token_is_never_drawn_accepted_settled_or_believed(model: Transformer, greedy: bool) -> None:
    """The model is sure of a banned token everywhere; all positions are accepted."""
    banned = [0, 2, 9, VOCAB - 1]
    canvases, one = Canvases(model, 1, banned), sequence(0, 0, entropy_bound=1e9, greedy=greedy)
    canvases.lay([one])
    for number in range(NOISE_STEPS + 2):
        z = logits(number) / 3
        exact = z.clone()
        z[..., banned] = 30.0
        exact[..., banned] = -torch.inf
        step(canvases, [one], z)
        argmax, first = canvases.settled(one)
        assert not set(banned) & {*canvases.tokens[0].tolist(), *argmax, *first}
        p = (exact[0, :LENGTH] / sampler.temperature_at(number, one.settings)).softmax(-1)
        torch.testing.assert_close(canvases.soft[0], model.soft_embeddings(p), atol=1e-5, rtol=0)


def test_what_lies_in_the_padding_of_the_logits_changes_nothing(model: Transformer) -> None:
    canvases = [Canvases(model, 1, [3]) for _ in range(2)]
    for garbage, own in zip((torch.nan, 1e4), canvases, strict=True):
        one = sequence(4, 0)
        own.lay([one])
        z = logits(6)
        z[:, LENGTH:] = garbage
        (outcome,) = step(own, [one], z)
        assert 0 < outcome.mean_entropy < 10
    assert_equal(state(canvases[0], 0), state(canvases[1], 0))


@examples(max_examples=25)
@given(plan=st.lists(st.sets(st.integers(0, 3), min_size=1), min_size=1, max_size=14), turn=st.integers(0, 3))
def test_slots_are_independent(model: Transformer, plan: list[set[int]], turn: int) -> None:
    """Any of four sequences step together, at steps of their own: each is bit for bit what it is alone."""
    slots = [(number + turn) % 4 for number in range(4)]
    changes = [{"entropy_bound": 0.1 * number, "temperature_start": 1.0 + number} for number in range(4)]
    sequences = [sequence(number, slots[number], **changes[number]) for number in range(4)]
    loners = [sequence(number, 0, **changes[number]) for number in range(4)]
    together, apart = Canvases(model, 4, [1]), [Canvases(model, 1, [1]) for _ in range(4)]
    together.lay(sequences)
    for own, one in zip(apart, loners, strict=True):
        own.lay([one])
    for number, chosen in enumerate(plan):
        members = sorted(chosen, key=lambda member: (member + number) % 4)
        z = logits(number, batch=len(members))
        outcomes = step(together, [sequences[member] for member in members], z)
        for place, member in enumerate(members):
            assert step(apart[member], [loners[member]], z[place : place + 1]) == [outcomes[place]]
    for member in range(4):
        assert_equal(state(together, slots[member]), state(apart[member], 0))


def test_a_slot_taken_over_remembers_nothing(model: Transformer) -> None:
    used, new = Canvases(model, 1, []), Canvases(model, 1, [])
    last = sequence(3, 0)
    used.lay([last])
    for number in range(NOISE_STEPS + 3):
        step(used, [last], logits(number))
    for own in (used, new):
        one = sequence(6, 0)
        own.lay([one])
        for number in range(3):
            step(own, [one], logits(40 + number))
    assert_equal(state(used, 0), state(new, 0))


def test_laying_none_touches_none(model: Transformer) -> None:
    canvases = Canvases(model, 1, [])
    canvases.lay([])
    assert canvases.argmax.tolist() == [[-1] * LENGTH]
