"""The kernel in the interpreter against its twin. Tolerance: float32 sums of K terms in another order."""

from __future__ import annotations

import pytest
import torch

import dgbatch.engine.kernels.linear as module
from dgbatch.engine.kernels.launch import stages_of
from dgbatch.engine.kernels.linear import configuration, linear
from dgbatch.engine.kernels.reference import products
from tests.engine.kernels.among_garbage import among_garbage, random, small_integers, span


# outputs and K that are no multiple of a block, and that are
@pytest.mark.parametrize(("n", "k"), [(70, 100), (64, 128), (1, 5)])
@pytest.mark.parametrize("rows", [1, 2, 3, 17])
def test_rows_at_work_are_multiplied(rows: int, n: int, k: int) -> None:
    x, of, inside = among_garbage(random(rows, k))
    weight = random(n, k, seed=1)
    ours, theirs = linear(x, weight, of), products.linear(x, weight, of)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours[inside], theirs[inside], rtol=0, atol=1e-6 * k)


def test_bfloat16_is_read_and_written_right() -> None:
    x, of, inside = among_garbage(small_integers(17, 100))
    weight = small_integers(70, 100, seed=1)
    assert torch.equal(linear(x, weight, of)[inside], products.linear(x, weight, of)[inside])


def test_a_span_may_begin_and_end_inside_any_block_of_rows() -> None:
    x, weight = random(3 * module.BLOCK_ROWS, 64), random(70, 64, seed=1)
    for first, end in ((0, 64), (64, 192), (150, 320), (384, 384)):
        ours = linear(x, weight, span(first, end))[first:end]
        torch.testing.assert_close(ours, x[first:end] @ weight.T, rtol=0, atol=1e-6 * 64)


def test_a_row_is_bitwise_the_same_alone_in_company_and_elsewhere() -> None:
    x, weight = random(200, 100), random(70, 100, seed=1)
    together = linear(x, weight, span(0, 200))
    assert torch.equal(linear(x, weight, span(170, 171))[170], together[170])
    assert torch.equal(linear(x[170:171], weight, span(0, 1))[0], together[170])


@pytest.mark.parametrize("block_n", [64, 128, 256])
def test_a_row_is_bitwise_the_same_with_every_width_of_block(block_n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, of = random(17, 100), random(300, 100, seed=1), span(0, 17)
    usual = linear(x, weight, of)
    monkeypatch.setattr(module, "configuration", lambda *sizes: (block_n, 8, 3))
    assert torch.equal(linear(x, weight, of), usual)


@pytest.mark.parametrize("n", [2816, 8192, 9216])
def test_blocks_are_as_wide_as_the_work_for_all_multiprocessors_allows(n: int) -> None:
    widths = [configuration(256 * canvases, n, 90)[0] for canvases in (1, 2, 4, 8, 16)]
    assert widths == sorted(widths)
    assert widths[-1] == 256
    assert 2 * n // widths[0] >= module.ENOUGH_PROGRAMS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("canvases", [1, 2, 4, 16])
def test_what_is_under_way_fits_shared_memory(canvases: int, dtype: torch.dtype) -> None:
    for arch, limit in ((90, 227 * 1024), (120, 99 * 1024)):
        block_n, _, stages = configuration(256 * canvases, 2816, arch)
        kept = stages_of(torch.empty(1, dtype=dtype), stages) - (arch == 120)  # before Hopper one stage is in registers
        assert kept * (module.BLOCK_ROWS + block_n) * module.BLOCK_K * dtype.itemsize <= limit
