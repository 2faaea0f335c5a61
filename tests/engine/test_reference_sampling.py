"""The twins of head, decide and soft_rows against the sampler that a CPU uses, and against exact probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dgbatch.engine import noise, sampler
from dgbatch.engine.kernels import softcap
from dgbatch.engine.kernels.operations import decide, head, soft_rows
from dgbatch.engine.kernels.tables import HEAD_COLUMNS, Number, Slots, Tiles
from tests.engine.device_tables import ROWS, canvases_only, empty_slots, empty_tiles, key_words, sit_down
from tests.engine.test_noise import bound_of, chi_square

HIDDEN, CAP, C = 16, 30.0, 12


class Case:
    """Two chunks of clean text, then three canvases of five slots; rows at no work hold NaN."""

    def __init__(self, vocab: int, temperature: float = 0.8, dtype: torch.dtype = torch.float32, spread: float = 3.0):
        generator = torch.Generator().manual_seed(5)
        self.slots: Slots = empty_slots(5, vocab, HIDDEN, dtype)
        self.tiles: Tiles = empty_tiles(7, 5)
        self.at_work = [3, 0, 4]
        for slot in range(5):
            sit_down(self.slots, slot, key=2**63 + 12345 * slot, step=slot, canvas=2 * slot)
        canvases_only(self.tiles, self.at_work, C, before=2)
        self.tiles.temperature[2:5] = torch.tensor([temperature, temperature / 2, temperature])
        self.slots.allowed[:, [0, 5]] = 0
        self.slots.allowed[3, 17:40] = 0
        h = torch.randn(7 * ROWS, HIDDEN, generator=generator)
        h[: 2 * ROWS] = h[5 * ROWS :] = torch.nan
        self.h = h.to(dtype)
        self.embedding = (torch.randn(vocab, HIDDEN, generator=generator) * spread / HIDDEN**0.5).to(dtype)

    def z(self) -> Tensor:
        """(canvases, C, V) float32, as engine/canvases.py makes it."""
        logits = self.h[2 * ROWS : 5 * ROWS].view(3, ROWS, -1)[:, :C] @ self.embedding.T
        z = softcap(logits, CAP) / self.tiles.temperature[2:5, None, None]
        return z.masked_fill(self.slots.allowed[self.at_work][:, None] == 0, -torch.inf)

    def given(self) -> tuple[Tensor, Tensor, Slots, Tiles, float, int]:
        """What the head is called with."""
        return self.h, self.embedding, self.slots, self.tiles, CAP, 5

    def head(self) -> tuple[Tensor, ...]:
        return head(*self.given())

    def decide(self) -> tuple[Tensor, ...]:
        return decide(*self.head(), self.slots, self.tiles)

    def level(self, length: int = C) -> tuple[Tensor, Tensor]:
        """Levels of this step and fresh tokens of the next, by engine/noise.py. (canvases, length) each"""
        numbers = self.slots.numbers[self.at_work].long()
        keys = torch.stack([key_words(self.slots, slot) for slot in self.at_work])
        steps = numbers[:, Number.STEP, None] + torch.arange(2)
        fresh, level = noise.draws(keys, numbers[:, Number.CANVAS], steps, length, self.slots.allowed.shape[1])
        return level[:, 0], fresh[:, 1]


def of_canvases(rows: Tensor) -> Tensor:
    """Of rows of five canvases at most, the true ones of the three at work."""
    return rows[: 3 * ROWS].view(3, ROWS, *rows.shape[1:])[:, :C]


@pytest.mark.parametrize("vocab", [60, 128, 300])
@pytest.mark.parametrize("temperature", [0.05, 0.8, 20.0])
def test_factors_make_probabilities_of_what_the_head_wrote(vocab: int, temperature: float) -> None:
    case = Case(vocab, temperature)
    e = case.head()[0]
    entropy, argmax, _, _, factors = case.decide()
    belief = sampler.believe(case.z())
    p = e * factors.repeat_interleave(HEAD_COLUMNS, -1)[:, :vocab]
    torch.testing.assert_close(of_canvases(p), belief.p, atol=2e-6, rtol=1e-4)  # float32 at |z| up to 600
    torch.testing.assert_close(of_canvases(entropy), belief.entropy, atol=2e-5, rtol=1e-5)
    assert torch.equal(of_canvases(argmax), belief.argmax.int())


def test_sums_of_a_tile_are_those_of_its_maximum() -> None:
    case = Case(300)
    e, totals, moments, maxima, argmaxima = map(of_canvases, case.head())
    padded = torch.nn.functional.pad(case.z(), (0, 84), value=-torch.inf).unflatten(-1, (3, 128))
    torch.testing.assert_close(maxima, padded.amax(-1))
    assert torch.equal(argmaxima, (padded.argmax(-1) + torch.tensor([0, 128, 256])).int())
    exact = (padded - padded.amax(-1, keepdim=True)).exp()
    torch.testing.assert_close(e, exact.flatten(-2)[..., :300])
    torch.testing.assert_close(totals, exact.sum(-1))
    torch.testing.assert_close(moments, torch.special.entr(exact).sum(-1).neg(), atol=1e-5, rtol=1e-5)


def test_a_column_tile_of_banned_tokens_alone_weighs_nothing() -> None:
    case = Case(300)
    case.slots.allowed[:, 128:256] = 0
    e, totals, moments, maxima, _ = map(of_canvases, case.head())
    assert (maxima[..., 1] == -torch.inf).all()
    assert not totals[..., 1].any() and not moments[..., 1].any() and not e[..., 128:256].any()
    entropy, argmax, drawn, _, factors = map(of_canvases, case.decide())
    assert not factors[..., 1].any()
    torch.testing.assert_close(entropy, sampler.believe(case.z()).entropy, atol=1e-5, rtol=1e-5)
    for ids in (argmax, drawn):
        assert not ((ids >= 128) & (ids < 256)).any()


def test_the_level_draws_the_token_that_the_sampler_draws() -> None:
    case = Case(300)
    drawn, fresh = map(of_canvases, case.decide()[2:4])
    level, expected = case.level()
    assert torch.equal(drawn, sampler.draw(sampler.believe(case.z()).p, level).int())
    assert torch.equal(fresh, expected.int())


def test_greedy_slots_draw_their_argmax_and_others_do_not() -> None:
    case = Case(60, 5.0)
    case.slots.numbers[0, Number.GREEDY] = 1
    argmax, drawn = map(of_canvases, case.decide()[1:3])
    assert torch.equal(drawn[1], argmax[1])
    assert (drawn[0] != argmax[0]).any() and (drawn[2] != argmax[2]).any()


@pytest.mark.parametrize("temperature", [0.01, 0.8, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_token_of_probability_zero_is_drawn(temperature: float, dtype: torch.dtype) -> None:
    case = Case(300, temperature, dtype)
    case.slots.allowed[:, 250:] = 0
    drawn = of_canvases(case.decide()[2]).long()
    assert (sampler.believe(case.z()).p.gather(-1, drawn[..., None]) > 0).all()
    assert (case.slots.allowed[case.at_work][:, None].expand(-1, C, -1).gather(-1, drawn[..., None]) == 1).all()


def test_drawn_tokens_follow_the_exact_probabilities() -> None:
    """One row of logits in every row, twenty steps of each canvas: 64 * 3 * 20 draws over three column tiles."""
    case = Case(300, 1.0, spread=0.7)
    case.h[2 * ROWS : 5 * ROWS] = case.h[2 * ROWS]
    case.tiles.temperature.fill_(0.9)
    case.slots.allowed[:] = case.slots.allowed[3]
    counts = torch.zeros(300, dtype=torch.float64)
    for step in range(20):
        case.slots.numbers[:, Number.STEP] = step
        counts += torch.bincount(case.decide()[2][: 3 * ROWS].long(), minlength=300)
    exact = case.z()[0, 0].double().softmax(-1) * counts.sum()
    assert counts.sum() == 20 * 3 * ROWS
    likely = exact > 5
    assert likely.sum() > 100
    assert chi_square(counts[likely], exact[likely]) < bound_of(int(likely.sum()) - 1)
    assert not counts[exact == 0].any()


def test_entropy_of_one_certain_token_is_zero_and_of_none_the_logarithm() -> None:
    case = Case(300)
    case.slots.allowed[:] = 0
    case.slots.allowed[:, 129] = 1
    assert torch.equal(of_canvases(case.decide()[0]), torch.zeros(3, C))
    case.slots.allowed[:] = 1
    case.embedding.zero_()
    torch.testing.assert_close(of_canvases(case.decide()[0]), torch.full((3, C), math.log(300)))


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06)])
def test_soft_rows_are_the_mean_embedding_of_their_slots_alone(dtype: torch.dtype, atol: float) -> None:
    """In bfloat16 p is rounded once more (2^-9 of it), and three roundings of a result near 4 make 2^-8 * 4 each."""
    case = Case(300, dtype=dtype)
    case.slots.soft.fill_(99.0)
    e = case.head()[0]
    soft_rows(e, case.decide()[4], case.embedding, 4.0, case.slots, case.tiles)
    expected = (sampler.believe(case.z()).p @ case.embedding.float()) * 4
    torch.testing.assert_close(case.slots.soft[case.at_work, :C].float(), expected, atol=atol, rtol=0)
    assert (case.slots.soft[:, C:] == 99).all() and (case.slots.soft[[1, 2]] == 99).all()


def test_a_pass_without_canvases_touches_nothing() -> None:
    case = Case(60)
    canvases_only(case.tiles, [], C, before=2)
    soft_rows(case.head()[0], case.decide()[4], case.embedding, 4.0, case.slots, case.tiles)
    assert not case.slots.soft.any()


def test_all_they_make_lies_where_the_rows_lie() -> None:
    """On a GPU the twins are what kernels are held against: here they run where to name no device is to be nowhere."""
    case = Case(300)
    with torch.device("meta"):
        e = case.head()[0]
        drawn, fresh, factors = case.decide()[2:]
        soft_rows(e, factors, case.embedding, 4.0, case.slots, case.tiles)
    assert drawn.device == fresh.device == case.h.device
    assert case.slots.soft[case.at_work, :C].abs().sum() > 0
