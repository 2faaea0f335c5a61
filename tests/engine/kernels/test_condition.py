from __future__ import annotations

import pytest
import torch

from dgbatch.engine.kernels.condition import condition
from dgbatch.engine.kernels.reference import rows as twins
from tests.engine.at_work import canvas, chunk, make_tiles, random
from tests.engine.kernels.held import TYPES, held, mark_outputs, untouched

EPS = 1e-6


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("hidden", "rows"), [(40, 1), (33, 3), (2816, 2)])
def test_clean_text_passes_and_canvases_are_mixed_and_normed(hidden: int, rows: int, dtype: torch.dtype) -> None:
    lines = (chunk(0, 0, rows, 0), canvas(1, 0, rows, 0), canvas(2, 0, rows, 0, first=True))
    tiles = make_tiles(rows, *lines, idle=1)
    embedded, branch = (random(4 * rows, hidden, seed=seed, dtype=dtype) for seed in (0, 1))
    weight = random(hidden, dtype=dtype)
    branch[:rows] = branch[2 * rows :] = torch.nan  # of clean text, of a first step, of no work: never looked at
    embedded[3 * rows :] = torch.nan
    x, h = condition(embedded, branch, tiles, weight, EPS)
    their_x, their_h = twins.condition(embedded, branch, tiles, weight, EPS)
    assert x[:rows].equal(embedded[:rows])
    held(x, their_x, slice(0, 3 * rows))
    held(h, their_h, slice(0, 3 * rows))
    assert (x[rows : 2 * rows].float() ** 2).mean(-1).sub(1).abs().max() < 0.01


def test_the_branch_of_a_canvas_counts() -> None:
    tiles = make_tiles(1, canvas(0, 0, 1, 0))
    x, _ = condition(torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, -1.0]]), tiles, torch.ones(2), 0.0)
    torch.testing.assert_close(x, torch.tensor([[2**0.5, 0.0]]))


@pytest.mark.parametrize(("first", "end"), [(0, 1), (2, 3), (1, 6), (0, 0)])
def test_rows_outside_the_span_are_not_computed(first: int, end: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = make_tiles(3, chunk(0, 0, 3, 0), canvas(1, 0, 3, 0), span=(first, end))
    mark_outputs(monkeypatch)
    assert all(untouched(out, first, end) for out in condition(random(6, 8), random(6, 8), tiles, random(8), EPS))
