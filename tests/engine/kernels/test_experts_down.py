"""The kernel in the interpreter against its twin. Tolerance: float32 sums of I terms in another order."""

from __future__ import annotations

import pytest
import torch

import dgbatch.engine.kernels.experts_down as module
from dgbatch.engine.kernels.experts_down import experts_down
from dgbatch.engine.kernels.experts_up import TokenTiles, token_tiles
from dgbatch.engine.kernels.reference import products
from tests.engine.kernels.among_garbage import random, small_integers, span
from tests.engine.kernels.test_experts_up import CHOSEN, EXPERTS, grouped


@pytest.mark.parametrize(("hidden", "width"), [(140, 100), (128, 64)])
@pytest.mark.parametrize("rows", [1, 2, 3, 17])
def test_every_row_comes_back_to_where_it_was_from(rows: int, hidden: int, width: int) -> None:
    inside = slice(2 * CHOSEN, (2 + rows) * CHOSEN)
    inner = torch.full(((rows + 5) * CHOSEN, width), float("nan"))
    inner[inside] = random(rows * CHOSEN, width)
    down = random(EXPERTS, hidden, width, seed=1)
    down[3] = float("nan")  # nobody chose it; behind the last row of the one before there is nothing else
    counts, places = grouped(rows + 5, span(2, 2 + rows))
    ours, theirs = experts_down(inner, down, counts, places), products.experts_down(inner, down, counts, places)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours[inside], theirs[inside], rtol=0, atol=1e-6 * width)


def test_bfloat16_is_read_and_written_right() -> None:
    inner, down = small_integers(17 * CHOSEN, 100), small_integers(EXPERTS, 70, 100, seed=1)
    counts, places = grouped(17, span(0, 17))
    ours = experts_down(inner, down, counts, places)
    assert torch.equal(ours, products.experts_down(inner, down, counts, places))


def test_an_experts_scale_multiplies_its_rows() -> None:
    inner, down, scale = random(5 * CHOSEN, 40), random(EXPERTS, 6, 40), random(EXPERTS, 6, seed=1)
    counts, places = grouped(5, span(0, 5))
    ours = experts_down(inner, down, counts, places, scale)
    theirs = products.experts_down(inner, down, counts, places, scale)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=4e-5)


@pytest.mark.parametrize("mean", [16, 64, 128, 256])
def test_a_row_is_bitwise_the_same_in_every_tile_and_alone(mean: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, alone = 150, 149  # expert 1 has all of them: tiles of every kind, the last one not full
    inner, down = random(rows * CHOSEN, 100), random(EXPERTS, 20, 100, seed=1)
    together = experts_down(inner, down, *grouped(rows, span(0, rows)))
    monkeypatch.setattr(module, "token_tiles", lambda *_: token_tiles(mean, 90))
    assert torch.equal(experts_down(inner, down, *grouped(rows, span(0, rows))), together)
    own = experts_down(inner, down, *grouped(rows, span(alone, alone + 1)))
    assert torch.equal(own[alone * CHOSEN :], together[alone * CHOSEN :])


def test_programs_that_share_an_expert_do_all_its_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 100
    inner, down = random(rows * CHOSEN, 8), random(EXPERTS, 2, 8, seed=1)
    counts, places = grouped(rows, span(0, rows))
    monkeypatch.setattr(module, "token_tiles", lambda *_: TokenTiles(16, 2, 16, 2, 3, 4, None))
    ours = experts_down(inner, down, counts, places)
    torch.testing.assert_close(ours, products.experts_down(inner, down, counts, places), rtol=0, atol=1e-5)
