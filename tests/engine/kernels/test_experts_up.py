"""The kernel in the interpreter against its twin. Tolerance: float32 sums of H terms in another order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import dgbatch.engine.kernels.experts_up as module
from dgbatch.engine.kernels.experts_up import TokenTiles, experts_up, token_tiles
from dgbatch.engine.kernels.reference import products
from tests.engine.kernels.among_garbage import random, small_integers, span

EXPERTS, CHOSEN = 4, 2


def grouped(rows: int, of: Tensor) -> tuple[Tensor, Tensor]:
    """Expert 1 is chosen by all, 3 by nobody, 0 and 2 by turns: the lists of the rows in `of`."""
    index = torch.tensor([[1, 0] if row % 2 else [2, 1] for row in range(rows)], dtype=torch.int32)
    counts, places = products.group_rows(index, EXPERTS, of)
    for expert, count in enumerate(counts.tolist()):
        places[expert, count:] = 1 << 30  # nobody may go there
    return counts, places


# widths and hidden sizes that are no multiple of a block, and that are
@pytest.mark.parametrize(("width", "hidden"), [(70, 100), (64, 128)])
@pytest.mark.parametrize("rows", [1, 2, 3, 17])
def test_every_row_goes_through_the_experts_it_chose(rows: int, width: int, hidden: int) -> None:
    x, of = torch.full((rows + 5, hidden), float("nan")), span(2, 2 + rows)
    x[2 : 2 + rows] = random(rows, hidden)
    gate_up = random(EXPERTS, 2 * width, hidden, seed=1)
    gate_up[3] = float("nan")  # nobody chose it; behind the last row of the one before there is nothing else
    counts, places = grouped(rows + 5, of)
    ours = experts_up(x, gate_up, counts, places, CHOSEN)
    theirs = products.experts_up(x, gate_up, counts, places, CHOSEN)
    assert ours.shape == theirs.shape
    inside = slice(2 * CHOSEN, (2 + rows) * CHOSEN)
    torch.testing.assert_close(ours[inside], theirs[inside], rtol=1e-5, atol=1e-5 * hidden)


def test_bfloat16_is_read_and_written_right() -> None:
    x, gate_up = small_integers(17, 100), small_integers(EXPERTS, 140, 100, seed=1)
    counts, places = grouped(17, span(0, 17))
    ours = experts_up(x, gate_up, counts, places, CHOSEN).float()
    theirs = products.experts_up(x, gate_up, counts, places, CHOSEN).float()
    # the products are exact; the gate and its product with up are cut by the interpreter: a step of 2^-7 each
    torch.testing.assert_close(ours, theirs, rtol=2 * 2**-7, atol=1e-6)


def test_an_experts_scale_multiplies_before_the_gate() -> None:
    x, gate_up, scale = random(5, 40), random(EXPERTS, 6, 40), random(EXPERTS, 6, seed=1)
    counts, places = grouped(5, span(0, 5))
    ours = experts_up(x, gate_up, counts, places, CHOSEN, scale)
    theirs = products.experts_up(x, gate_up, counts, places, CHOSEN, scale)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=4e-4)


@pytest.mark.parametrize("mean", [16, 64, 128, 256])
def test_a_row_is_bitwise_the_same_in_every_tile_and_alone(mean: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, alone = 150, 149  # expert 1 has all of them: tiles of every kind, the last one not full
    x, gate_up = random(rows, 100), random(EXPERTS, 20, 100, seed=1)
    together = experts_up(x, gate_up, *grouped(rows, span(0, rows)), CHOSEN)
    monkeypatch.setattr(module, "token_tiles", lambda *_: token_tiles(mean, 90))
    assert torch.equal(experts_up(x, gate_up, *grouped(rows, span(0, rows)), CHOSEN), together)
    own = experts_up(x, gate_up, *grouped(rows, span(alone, alone + 1)), CHOSEN)
    assert torch.equal(own[alone * CHOSEN :], together[alone * CHOSEN :])


def test_programs_that_share_an_expert_do_all_its_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 100
    x, gate_up = random(rows, 8), random(EXPERTS, 2, 8, seed=1)
    counts, places = grouped(rows, span(0, rows))
    monkeypatch.setattr(module, "token_tiles", lambda *_: TokenTiles(16, 2, 16, 2, 3, 4, None))
    ours = experts_up(x, gate_up, counts, places, CHOSEN)
    torch.testing.assert_close(ours, products.experts_up(x, gate_up, counts, places, CHOSEN), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("canvases", "mean"), [(1, 16), (2, 32), (4, 64), (8, 128), (16, 256)])
def test_tiles_hold_what_an_expert_usually_has(canvases: int, mean: int) -> None:
    tokens = token_tiles(mean, 90)
    usual = mean + 3 * mean**0.5  # three deviations
    assert tokens.turns * tokens.many >= usual, canvases
    assert tokens.few < tokens.many


@pytest.mark.parametrize("mean", [16, 32, 64, 128, 256])
def test_two_programs_fit_a_multiprocessor(mean: int) -> None:
    tokens, row = token_tiles(mean, 90), module.BLOCK_K * 2
    for tile, stages in ((tokens.few, tokens.few_stages), (tokens.many, tokens.many_stages)):
        assert 2 * (stages * (2 * module.BLOCK_I + tile) * row + 1024) <= 228 * 1024
    assert 2 * (tokens.few_stages - 2) * 2 * module.BLOCK_I * row >= 64 * 1024  # of weights, while one stage is awaited
