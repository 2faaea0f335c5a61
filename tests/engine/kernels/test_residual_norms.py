from __future__ import annotations

import pytest
import torch

from dgbatch.engine.kernels.reference import rows as twins
from dgbatch.engine.kernels.residual_norms import residual_norms
from tests.engine.at_work import random, span
from tests.engine.kernels.held import TYPES, held, mark_outputs, untouched

EPS = 1e-6


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("hidden", "rows", "first", "end"), [(40, 1, 0, 1), (33, 5, 1, 3), (64, 19, 2, 19), (2816, 3, 0, 3)]
)
def test_every_reading_is_that_of_the_twin(hidden: int, rows: int, first: int, end: int, dtype: torch.dtype) -> None:
    x, attended = random(rows, hidden, dtype=dtype) * 3, random(rows, hidden, seed=1, dtype=dtype) * 5
    outside = torch.ones(rows, dtype=torch.bool)
    outside[first:end] = False
    x[outside] = attended[outside] = torch.nan
    weights = [random(hidden, seed=seed, dtype=dtype) for seed in range(3)]
    ours = residual_norms(x, attended, *weights, EPS, span(first, end))
    theirs = twins.residual_norms(x, attended, *weights, EPS, span(first, end))
    for own, their in zip(ours, theirs, strict=True):
        held(own, their, slice(first, end))


def test_a_row_gives_the_same_bits_in_any_company() -> None:
    x, attended, weight = random(5, 40), random(5, 40, seed=1), random(40)
    together = residual_norms(x, attended, weight, weight, weight, EPS, span(0, 5))
    alone = residual_norms(x[3:4].clone(), attended[3:4].clone(), weight, weight, weight, EPS, span(0, 1))
    for one, many in zip(alone, together, strict=True):
        assert one[0].equal(many[3])


def test_small_rows_are_held_down_by_eps_and_a_row_of_zeros_stays_zero() -> None:
    x = torch.tensor([[0.0, 0.0], [1e-3, 1e-3]])
    moved, _, _, unit = residual_norms(x, torch.zeros(2, 2), *[torch.ones(2)] * 3, EPS, span(0, 2))
    assert moved.equal(x)
    torch.testing.assert_close(unit, torch.tensor([[0.0, 0.0], [2**-0.5, 2**-0.5]]))


@pytest.mark.parametrize(("first", "end"), [(0, 1), (2, 3), (1, 6), (0, 0)])
def test_rows_outside_the_span_are_not_computed(first: int, end: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mark_outputs(monkeypatch)
    returned = residual_norms(random(6, 8), random(6, 8), *[random(8)] * 3, EPS, span(first, end))
    assert all(untouched(out, first, end) for out in returned)
