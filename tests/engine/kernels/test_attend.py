"""The kernel against its twin, in Triton's interpreter.

Tolerance: 1e-5 for float32 sums of a few hundred terms.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dgbatch.engine.kernels.attend import SPLITS, attend, config
from dgbatch.engine.kernels.reference import looking
from tests.engine.looks import Pass, Shape, Text
from tests.engine.test_reference_looking import CASES

SMALL = Shape(heads=2, kv_heads=1)  # the interpreter takes tens of milliseconds for a program


def close(case: Pass) -> None:
    ours, twin = attend(*case.asked), looking.attend(*case.asked)
    for tile in range(case.at_work):
        torch.testing.assert_close(ours[case.there(tile)], twin[case.there(tile)], atol=1e-5, rtol=0)
    # padding is like the rows before it: what comes after must not meet a NaN
    assert ours[: case.at_work * case.shape.tile_rows].isfinite().all()


@pytest.mark.parametrize("sliding", [False, True], ids=["full", "sliding"])
@pytest.mark.parametrize("name", CASES)
def test_the_kernel_sees_what_its_twin_sees(name: str, sliding: bool) -> None:
    close(Pass(CASES[name], SMALL, sliding))


@pytest.mark.parametrize(("page_tokens", "sliding"), [(96, True), (128, False)])
def test_pages_of_several_blocks_of_keys_and_tiles_of_several_blocks_of_rows(page_tokens: int, sliding: bool) -> None:
    """Blocks in the middle need no mask; here are some, on both sides of a ragged page and of the window's edge."""
    shape = Shape(heads=4, kv_heads=1, page_tokens=page_tokens, tile_rows=128)
    assert shape.tile_rows * 4 > config(shape.head_dim, 4, shape.tile_rows * 4, 90).block_rows
    assert page_tokens > config(shape.head_dim, 4, shape.tile_rows * 4, 90).block_keys
    close(Pass([Text(2 * page_tokens + 37, settled=2, chunks=range(4, 5))], shape, sliding, window=200, spare_tiles=0))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "page_tokens"), [(2, 2, 32, 12), (3, 1, 8, 12), (1, 1, 24, 64)]
)
def test_heads_share_keys_in_groups_of_any_size(heads: int, kv_heads: int, head_dim: int, page_tokens: int) -> None:
    close(
        Pass([Text(2 * page_tokens + 3, settled=1, chunks=range(3, 4))], Shape(heads, kv_heads, head_dim, page_tokens))
    )


def test_bfloat16_is_rounded_once_at_the_end() -> None:
    """The interpreter rounds toward zero: one step, 2^-7 of the value."""
    case = Pass([Text(21, settled=1, chunks=range(2, 4))], SMALL, dtype=torch.bfloat16)
    out = attend(*case.asked)
    assert out.dtype == torch.bfloat16
    for tile in range(case.at_work):
        torch.testing.assert_close(out[case.there(tile)].double(), case.exact(tile), atol=1e-5, rtol=2**-7)


def test_a_tile_is_the_same_alone_and_in_company() -> None:
    case = Pass(CASES["company"], SMALL)
    together, rows = attend(*case.asked), case.shape.tile_rows
    for tile in (0, 3, 5):
        own, there = slice(tile * rows, (tile + 1) * rows), case.there(tile)
        tiles = replace(case.tiles, table=case.tiles.table[tile : tile + 1], spans=torch.tensor([[0, rows, 0, 0]] * 2))
        alone = attend(case.q[own], case.slots, tiles, case.pool, case.sliding, case.window, tiles.everyone)
        assert torch.equal(alone[: there.stop - there.start], together[there])


def test_rows_outside_the_span_are_not_computed() -> None:
    case = Pass(CASES["company"], SMALL)
    case.tiles.table[0] = case.tiles.table[-1] = 2**30  # who reads these runs far off
    out, twin = attend(*case.asked[:-1], case.tiles.canvases), looking.attend(*case.asked[:-1], case.tiles.canvases)
    first, end = case.tiles.canvases.tolist()
    assert first > 0
    for tile in range(first // 64, end // 64):
        torch.testing.assert_close(out[case.there(tile)], twin[case.there(tile)], atol=1e-5, rtol=0)


def test_both_parts_of_the_keys_are_merged_where_one_is_empty() -> None:
    assert SPLITS == 2
    close(Pass([Text(5, chunks=range(1), canvas=False)], spare_tiles=0))  # one block of keys
