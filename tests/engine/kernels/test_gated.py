"""The kernel in the interpreter against its twin. Tolerance: float32 sums of K terms in another order."""

from __future__ import annotations

import pytest
import torch

import dgbatch.engine.kernels.gated as module
from dgbatch.engine.kernels.gated import gated
from dgbatch.engine.kernels.reference import products
from tests.engine.kernels.among_garbage import among_garbage, random, small_integers, span


@pytest.mark.parametrize(("width", "k"), [(70, 100), (64, 128), (1, 5)])
@pytest.mark.parametrize("rows", [1, 2, 3, 17])
def test_rows_at_work_are_multiplied_and_gated(rows: int, width: int, k: int) -> None:
    x, of, inside = among_garbage(random(rows, k))
    gate_up = random(2 * width, k, seed=1)
    ours, theirs = gated(x, gate_up, of), products.gated(x, gate_up, of)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours[inside], theirs[inside], rtol=1e-5, atol=1e-5 * k)


def test_bfloat16_is_read_and_written_right() -> None:
    x, of, inside = among_garbage(small_integers(17, 100))
    gate_up = small_integers(140, 100, seed=1)
    ours, theirs = gated(x, gate_up, of)[inside].float(), products.gated(x, gate_up, of)[inside].float()
    # the products are exact; the gate and its product with up are cut by the interpreter: a step of 2^-7 each
    torch.testing.assert_close(ours, theirs, rtol=2 * 2**-7, atol=1e-6)


def test_a_gate_far_from_zero_is_open_or_shut() -> None:
    x, gate_up = torch.tensor([[1e4], [-1e4], [0.0]]), torch.tensor([[1.0], [2.0]])
    assert gated(x, gate_up, span(0, 3)).tolist() == [[2e8], [0.0], [0.0]]


def test_a_row_is_bitwise_the_same_alone_in_company_and_elsewhere() -> None:
    x, gate_up = random(200, 100), random(140, 100, seed=1)
    together = gated(x, gate_up, span(0, 200))
    assert torch.equal(gated(x, gate_up, span(170, 171))[170], together[170])
    assert torch.equal(gated(x[170:171], gate_up, span(0, 1))[0], together[170])


def test_a_row_is_bitwise_the_same_with_every_width_of_block(monkeypatch: pytest.MonkeyPatch) -> None:
    x, gate_up, of = random(17, 100), random(300, 100, seed=1), span(0, 17)
    usual = gated(x, gate_up, of)
    monkeypatch.setattr(module, "configuration", lambda *sizes: (128, 8, 3))
    assert torch.equal(gated(x, gate_up, of), usual)
