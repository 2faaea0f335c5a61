"""The kernel in the interpreter against its twin. Tolerance: scores are sums of H terms in another order."""

from __future__ import annotations

import pytest
import torch

from dgbatch.engine.kernels.choose_experts import choose_experts
from dgbatch.engine.kernels.reference import products
from tests.engine.kernels.among_garbage import among_garbage, random, small_integers, span


@pytest.mark.parametrize(("experts", "chosen", "hidden"), [(6, 3, 100), (128, 8, 256), (5, 5, 40), (4, 1, 8)])
@pytest.mark.parametrize("rows", [1, 2, 3, 17])
def test_the_likeliest_are_chosen_in_order_with_their_share(rows: int, experts: int, chosen: int, hidden: int) -> None:
    unit, of, inside = among_garbage(random(rows, hidden))
    rest = random(experts, hidden, seed=1), random(hidden), random(experts), chosen, of
    weights, index = choose_experts(unit, *rest)
    expected_weights, expected_index = products.choose_experts(unit, *rest)
    assert (weights.dtype, index.dtype) == (torch.float32, torch.int32)
    assert index[inside].tolist() == expected_index[inside].tolist()
    torch.testing.assert_close(weights[inside], expected_weights[inside], rtol=1e-5, atol=1e-6)


def test_bfloat16_is_read_right() -> None:
    # 64 and powers of two, so that nothing is rounded on the way to the scores
    unit, of, inside = among_garbage(small_integers(17, 64))
    scale = 2.0 ** small_integers(64)
    rest = small_integers(9, 64, seed=1), scale, random(9, dtype=torch.bfloat16), 4, of
    weights, index = choose_experts(unit, *rest)
    expected_weights, expected_index = products.choose_experts(unit, *rest)
    assert index[inside].tolist() == expected_index[inside].tolist()
    torch.testing.assert_close(weights[inside], expected_weights[inside], rtol=1e-6, atol=0)


def test_of_equal_scores_the_lower_expert_comes_first() -> None:
    hidden = 16
    proj = torch.zeros(7, hidden)
    proj[5], proj[1] = 1.0, -1.0
    unit, one = torch.ones(2, hidden), torch.ones(7)
    unit[1] = -1.0
    weights, index = choose_experts(unit, proj, torch.ones(hidden), one, 4, span(0, 2))
    assert index.tolist() == [[5, 0, 2, 3], [1, 0, 2, 3]]
    assert weights[0, 1] == weights[0, 2] == weights[0, 3]


def test_a_negative_zero_is_a_zero() -> None:
    tiny = 2.0**-24  # the smallest of float16: a quarter of it is rounded to zero
    proj = torch.tensor([[-tiny], [0.0], [tiny]], dtype=torch.float16)
    unit, one = torch.full((1, 1), 0.25, dtype=torch.float16), torch.ones(3, dtype=torch.float16)
    assert choose_experts(unit, proj, one[:1], one, 3, span(0, 1))[1].tolist() == [[0, 1, 2]]


def test_negative_scores_are_ordered_too() -> None:
    proj = -torch.arange(1.0, 10.0).unsqueeze(1)
    _, index = choose_experts(torch.ones(1, 1), proj, torch.ones(1), torch.ones(9), 9, span(0, 1))
    assert index.tolist() == [list(range(9))]


@pytest.mark.filterwarnings("ignore:invalid value")  # NumPy, at NaN minus itself
def test_rows_without_numbers_choose_experts_that_exist() -> None:
    unit = torch.full((2, 16), float("nan"))
    _, index = choose_experts(unit, random(5, 16), torch.ones(16), torch.ones(5), 3, span(0, 2))
    assert 0 <= int(index.min()) <= int(index.max()) < 5


def test_a_row_is_bitwise_the_same_alone_in_company_and_elsewhere() -> None:
    unit, rest = random(40, 100), (random(6, 100, seed=1), random(100), random(6), 3)
    weights, index = choose_experts(unit, *rest, span(0, 40))
    for rows, of, row in ((unit, span(37, 38), 37), (unit[37:38], span(0, 1), 0)):
        own_weights, own_index = choose_experts(rows, *rest, of)
        assert torch.equal(own_weights[row], weights[37])
        assert torch.equal(own_index[row], index[37])
