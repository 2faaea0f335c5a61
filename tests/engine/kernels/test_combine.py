from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dgbatch.engine.kernels.combine import combine
from dgbatch.engine.kernels.reference import rows as twins
from tests.engine.at_work import canvas, chunk, make_tiles, random, span
from tests.engine.kernels.held import TYPES, held, mark_outputs, untouched

EPS = 1e-6
SCALARS = torch.tensor([0.75, 1.25])


def case(rows: int, hidden: int, chosen: int, dtype: torch.dtype, rest: slice) -> tuple[list[Tensor], list[Tensor]]:
    """x, dense, outer and weights with garbage in the rows `rest`, and the weights of the four norms."""
    x, dense = random(rows, hidden, dtype=dtype) * 3, random(rows, hidden, seed=1, dtype=dtype)
    outer, weights = random(rows * chosen, hidden, seed=2, dtype=dtype), random(rows, chosen, seed=3).softmax(-1)
    outer.view(rows, chosen, hidden)[rest] = torch.nan
    x[rest] = dense[rest] = weights[rest] = torch.nan
    return [x, dense, outer, weights], [random(hidden, seed=seed, dtype=dtype) for seed in range(4)]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("hidden", "chosen", "rows", "work"), [(40, 2, 1, 2), (33, 3, 17, 2), (64, 1, 3, 1), (2816, 8, 1, 2)]
)
def test_a_layer_ends_as_that_of_the_twin(hidden: int, chosen: int, rows: int, work: int, dtype: torch.dtype) -> None:
    lines = (chunk(1, 0, rows, 0), canvas(0, 0, rows, 0))[-work:]
    tiles = make_tiles(rows, *lines, idle=1)
    tensors, norms = case((work + 1) * rows, hidden, chosen, dtype, slice(work * rows, None))
    arguments = (*tensors, *norms[:3], SCALARS, tiles, norms[3], EPS, tiles.everyone)
    for ours, theirs in zip(combine(*arguments), twins.combine(*arguments), strict=True):
        held(ours, theirs, slice(0, work * rows), few=0.03)


def test_the_last_layer_asks_for_canvases_alone() -> None:
    tiles = make_tiles(2, chunk(0, 0, 2, 0), canvas(1, 0, 2, 0), idle=1)
    tensors, norms = case(6, 40, 2, torch.float32, slice(0, 2))
    arguments = (*tensors, *norms[:3], SCALARS, tiles, norms[3], EPS, tiles.canvases)
    for ours, theirs in zip(combine(*arguments), twins.combine(*arguments), strict=True):
        held(ours, theirs, slice(2, 4))
        assert ours[2:4].isfinite().all()


@pytest.mark.parametrize(("first", "end"), [(0, 1), (2, 3), (1, 6), (0, 0)])
def test_rows_outside_the_span_are_not_computed(first: int, end: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = make_tiles(3, chunk(1, 0, 3, 0), canvas(0, 0, 3, 0))
    tensors, norms = case(6, 8, 2, torch.float32, slice(0, 0))
    mark_outputs(monkeypatch)
    returned = combine(*tensors, *norms[:3], SCALARS, tiles, norms[3], EPS, span(first, end))
    assert all(untouched(out, first, end) for out in returned)


def test_clean_text_and_canvases_have_a_scalar_each() -> None:
    tiles = make_tiles(1, chunk(1, 0, 1, 0), canvas(0, 0, 1, 0))
    x, zeros, ones = torch.ones(2, 4), torch.zeros(2, 4), torch.ones(4)
    norms = (ones, ones, ones)
    moved, h = combine(x, zeros, torch.zeros(4, 4), torch.ones(2, 2), *norms, SCALARS, tiles, ones, 0.5, span(0, 2))
    assert moved.equal(torch.tensor([[0.75] * 4, [1.25] * 4]))
    torch.testing.assert_close(h[:, 0], SCALARS / (SCALARS**2 + 0.5).sqrt())


def test_experts_are_added_in_the_order_of_their_slots() -> None:
    """1 + 2^24 - 2^24 is 0 in float32 and 2^24 - 2^24 + 1 is 1."""
    big = 2.0**24
    outer = torch.tensor([[1.0], [big], [-big], [big], [-big], [1.0]])
    tiles = make_tiles(2, canvas(0, 0, 2, 0))
    ones = torch.ones(1)
    zeros = torch.zeros(2, 1)
    norms = (ones, ones, ones)
    moved, _ = combine(zeros, zeros, outer, torch.ones(2, 3), *norms, torch.ones(2), tiles, ones, EPS, span(0, 2))
    torch.testing.assert_close(moved, torch.tensor([[0.0], [1.0]]), rtol=0, atol=1e-5)
