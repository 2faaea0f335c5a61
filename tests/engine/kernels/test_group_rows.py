"""The kernel in the interpreter against its twin; all numbers are whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import dgbatch.engine.kernels.group_rows as module
from dgbatch.engine.kernels.group_rows import group_rows
from dgbatch.engine.kernels.reference import products
from tests.engine.kernels.among_garbage import span


def choices(rows: int, chosen: int, experts: int) -> Tensor:
    """Experts 0 and up, of which the last is chosen by nobody and the first by all."""
    generator = torch.Generator().manual_seed(rows)
    others = [1 + torch.randperm(experts - 2, generator=generator)[: chosen - 1] for _ in range(rows)]
    return torch.stack([torch.cat([torch.tensor([0]), own]) for own in others]).int()


def assert_like_the_twin(index: Tensor, experts: int, of: Tensor) -> None:
    (counts, places), (expected, expected_places) = (
        group_rows(index, experts, of),
        products.group_rows(index, experts, of),
    )
    assert places.shape == expected_places.shape
    assert counts.tolist() == expected.tolist()
    for expert, count in enumerate(expected.tolist()):
        assert places[expert, :count].tolist() == expected_places[expert, :count].tolist()


@pytest.mark.parametrize("chosen", [1, 3, 4])
@pytest.mark.parametrize("rows", [1, 2, 3, 17])
def test_every_choice_stands_in_its_experts_list(rows: int, chosen: int) -> None:
    index = choices(rows, chosen, 7)
    assert_like_the_twin(index, 7, span(0, rows))
    assert group_rows(index, 7, span(0, rows))[0].tolist()[::6] == [rows, 0]


def test_rows_outside_the_span_are_not_looked_at() -> None:
    index = choices(17, 3, 7)
    index[:4], index[13:] = -77, 1 << 30
    assert_like_the_twin(index, 7, span(4, 13))
    assert_like_the_twin(index, 7, span(5, 5))


def test_ranks_go_on_from_one_block_of_rows_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 8)
    assert_like_the_twin(choices(37, 3, 7), 7, span(3, 35))
