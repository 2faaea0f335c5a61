"""The twins of the product kernels against the operations of the model (plain.py), and against their own words.

Tolerance: 2e-6 times the largest value, for float32 sums of a few dozen terms taken in another order.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgbatch.engine.kernels import operations
from dgbatch.engine.kernels.reference import plain

ROWS = [1, 2, 3, 17]
HIDDEN, WIDTH, EXPERTS, CHOSEN = 24, 20, 6, 3


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def span(first: int, end: int) -> Tensor:
    return torch.tensor([first, end], dtype=torch.int32)


def close(ours: Tensor, exact: Tensor) -> None:
    largest = max([1.0, *exact.abs().flatten().tolist()])
    torch.testing.assert_close(ours, exact, rtol=0, atol=2e-6 * largest)


def at_work(x: Tensor, first: int = 2, behind: int = 3) -> tuple[Tensor, Tensor, slice]:
    """x among rows that nobody may look at, the span that says so, and the same as a slice."""
    nothing = torch.full((1, x.shape[1]), float("nan"), dtype=x.dtype)
    inside = slice(first, first + len(x))
    return torch.cat([nothing.expand(first, -1), x, nothing.expand(behind, -1)]), span(first, inside.stop), inside


def routed(x: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
    proj, one = random(EXPERTS, HIDDEN, seed=1), torch.ones
    return operations.choose_experts(x, proj, 1 + 0.1 * random(HIDDEN), one(EXPERTS), CHOSEN, of)


@pytest.mark.parametrize("rows", ROWS)
def test_linear_multiplies_the_rows_at_work(rows: int) -> None:
    x, of, inside = at_work(random(rows, HIDDEN))
    weight = random(WIDTH, HIDDEN)
    out = operations.linear(x, weight, of)
    assert out.shape == (len(x), WIDTH)
    close(out[inside], x[inside] @ weight.T)


@pytest.mark.parametrize("rows", ROWS)
def test_a_gated_product_and_a_linear_one_are_the_gated_mlp(rows: int) -> None:
    x, of, inside = at_work(random(rows, HIDDEN))
    gate, up, down = random(WIDTH, HIDDEN), random(WIDTH, HIDDEN, seed=1), random(HIDDEN, WIDTH)
    inner = operations.gated(x, torch.cat([gate, up]), of)
    out = operations.linear(inner, down, of)
    close(out[inside], plain.gated_mlp(x[inside], gate, up, down))


@pytest.mark.parametrize("rows", ROWS)
def test_experts_are_chosen_as_the_router_of_the_model_does(rows: int) -> None:
    unit, of, inside = at_work(random(rows, HIDDEN))
    proj, scale, own = random(EXPERTS, HIDDEN, seed=1), random(HIDDEN), random(EXPERTS)
    weights, index = operations.choose_experts(unit, proj, scale, own, CHOSEN, of)
    assert weights.shape == index.shape == (len(unit), CHOSEN)
    assert (weights.dtype, index.dtype) == (torch.float32, torch.int32)
    expected_weights, expected_index = plain.route(unit[inside], proj, scale, own, CHOSEN)
    assert index[inside].tolist() == expected_index.tolist()
    close(weights[inside], expected_weights)


def test_of_equal_scores_the_lower_expert_comes_first() -> None:
    unit, proj = torch.ones(1, HIDDEN), torch.zeros(EXPERTS, HIDDEN)
    proj[4] = 1.0
    weights, index = operations.choose_experts(unit, proj, torch.ones(HIDDEN), torch.ones(EXPERTS), CHOSEN, span(0, 1))
    assert index.tolist() == [[4, 0, 1]]
    assert weights[0, 1] == weights[0, 2]


@settings(deadline=None, max_examples=100)
@given(data=st.data(), experts=st.integers(1, 9), rows=st.integers(0, 12))
def test_experts_are_chosen_in_order_of_score_then_of_number(data: st.DataObject, experts: int, rows: int) -> None:
    chosen = data.draw(st.integers(1, experts))
    # one input and scores of few values, so that many are equal
    scores = data.draw(st.lists(st.integers(-2, 2), min_size=experts, max_size=experts))
    proj = torch.tensor(scores, dtype=torch.float32).unsqueeze(1)
    one = torch.ones(1)
    weights, index = operations.choose_experts(
        torch.ones(rows, 1), proj, one, torch.ones(experts), chosen, span(0, rows)
    )
    order = sorted(range(experts), key=lambda expert: (-scores[expert], expert))[:chosen]
    assert index.tolist() == [order] * rows
    close(weights.sum(-1), torch.ones(rows))
    for row in weights.tolist():
        assert row == sorted(row, reverse=True)


@settings(deadline=None, max_examples=100)
@given(data=st.data(), experts=st.integers(1, 7), before=st.integers(0, 3), behind=st.integers(0, 3))
def test_every_choice_is_in_its_experts_group_in_order(
    data: st.DataObject, experts: int, before: int, behind: int
) -> None:
    chosen = data.draw(st.integers(1, experts))
    choices = st.permutations(range(experts)).map(lambda order: order[:chosen])
    rows = data.draw(st.lists(choices, max_size=12))
    nothing = [[-77] * chosen]
    index = torch.tensor([*nothing * before, *rows, *nothing * behind], dtype=torch.int32).view(-1, chosen)
    counts, places = operations.group_rows(index, experts, span(before, before + len(rows)))
    assert places.shape == (experts, len(index))
    assert (counts.dtype, places.dtype) == (torch.int32, torch.int32)
    flat = index.flatten().tolist()
    first, end = before * chosen, (before + len(rows)) * chosen
    for expert in range(experts):
        own = [place for place in range(first, end) if flat[place] == expert]
        assert places[expert, : counts[expert]].tolist() == own


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_the_experts_say_adds_up_to_the_mixture_of_the_model(rows: int, dtype: torch.dtype) -> None:
    x, of, inside = at_work(random(rows, HIDDEN).to(dtype))
    gate_up, down = random(EXPERTS, 2 * WIDTH, HIDDEN).to(dtype), random(EXPERTS, HIDDEN, WIDTH).to(dtype)
    weights, index = routed(x.float(), of)
    counts, places = operations.group_rows(index, EXPERTS, of)
    inner = operations.experts_up(x, gate_up, counts, places, CHOSEN)
    outer = operations.experts_down(inner, down, counts, places)
    ours = (outer.view(len(x), CHOSEN, HIDDEN).float() * weights.unsqueeze(-1)).sum(1)[inside]
    theirs = plain.experts(x[inside], weights[inside], index[inside].long(), gate_up, down)
    if dtype == torch.float32:
        close(ours, theirs)
    else:
        # three roundings to 8 bits on each side, of sums that libraries take in different orders
        assert (ours - theirs).abs().max() < 3 * 2**-8 * theirs.abs().max()


@pytest.mark.parametrize("alone", [0, 5, 16])
def test_a_row_is_bitwise_the_same_alone_and_in_company(alone: int) -> None:
    x = random(17, HIDDEN)
    gate_up, down = random(EXPERTS, 2 * WIDTH, HIDDEN), random(EXPERTS, HIDDEN, WIDTH)
    _, index = routed(x, span(0, 17))
    answers = []
    for of in (span(0, 17), span(alone, alone + 1)):
        counts, places = operations.group_rows(index, EXPERTS, of)
        inner = operations.experts_up(x, gate_up, counts, places, CHOSEN)
        answers.append(operations.experts_down(inner, down, counts, places).view(17, CHOSEN, HIDDEN)[alone])
    assert torch.equal(*answers)


def test_an_experts_scale_is_the_same_as_larger_weights() -> None:
    x, of = random(5, HIDDEN), span(0, 5)
    gate_up, down = random(EXPERTS, 2 * WIDTH, HIDDEN), random(EXPERTS, HIDDEN, WIDTH)
    of_up, of_down = random(EXPERTS, 2 * WIDTH), random(EXPERTS, HIDDEN)
    _, index = routed(x, of)
    counts, places = operations.group_rows(index, EXPERTS, of)
    inner = operations.experts_up(x, gate_up, counts, places, CHOSEN, of_up)
    close(inner, operations.experts_up(x, gate_up * of_up.unsqueeze(-1), counts, places, CHOSEN))
    outer = operations.experts_down(inner, down, counts, places, of_down)
    close(outer, operations.experts_down(inner, down * of_down.unsqueeze(-1), counts, places))


def test_no_rows_at_work_are_no_work() -> None:
    x, nobody = random(4, HIDDEN), span(0, 0)
    weight = random(2 * WIDTH, HIDDEN)
    assert operations.linear(x, weight, nobody).shape == (4, 2 * WIDTH)
    assert operations.gated(x, weight, nobody).shape == (4, WIDTH)
    _, index = routed(x, nobody)
    counts, places = operations.group_rows(index, EXPERTS, nobody)
    assert counts.tolist() == [0] * EXPERTS
    inner = operations.experts_up(x, random(EXPERTS, 2 * WIDTH, HIDDEN), counts, places, CHOSEN)
    assert inner.shape == (4 * CHOSEN, WIDTH)
