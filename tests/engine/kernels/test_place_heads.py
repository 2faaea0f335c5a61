from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dgbatch.engine.kernels.place_heads import place_heads
from dgbatch.engine.kernels.reference import rows as twins
from dgbatch.engine.kernels.tables import Tiles
from tests.engine.at_work import CHUNKS, canvas, chunk, make_slots, make_tiles, random
from tests.engine.kernels.held import TYPES, held, mark_outputs, untouched

EPS, SLOTS, FULL = 1e-6, 3, 77.0
Placed = tuple[Tensor, Tensor]


def both(
    tiles: Tiles, rows: int, size: int, heads: int, kv_heads: int, page_rows: int, sliding: bool, dtype: torch.dtype
) -> tuple[Placed, Placed]:
    """Queries and pool by kernel and by twin. Sliding layers have a part for V, full ones none."""
    end = int(tiles.everyone[1])
    width = (heads + (2 if sliding else 1) * kv_heads) * size
    angle = random(rows, size // 2, seed=3)
    row_tensors = [random(rows, width, dtype=dtype) * 3, angle.cos().to(dtype), angle.sin().to(dtype)]
    outside = torch.ones(rows, dtype=torch.bool)
    outside[int(tiles.everyone[0]) : end] = False
    for tensor in row_tensors:
        tensor[outside] = torch.nan
    norms = [random(size, seed=seed, dtype=dtype) for seed in (4, 5)]
    slots = make_slots(SLOTS, 64, 4, 4)
    placed = []
    for operation in (place_heads, twins.place_heads):
        pool = torch.full((SLOTS * CHUNKS + SLOTS, 2, kv_heads, page_rows, size), FULL, dtype=dtype)
        q = operation(*row_tensors, *norms, slots, tiles, pool, sliding, heads, EPS)
        placed.append((q, pool))
    return placed[0], placed[1]


def written(pool: Tensor) -> list[int]:
    return (pool != FULL).flatten(1).any(1).nonzero().flatten().tolist()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("size", "heads", "kv_heads", "sliding"), [(8, 4, 2, True), (16, 4, 1, False), (12, 2, 2, True), (2, 3, 1, False)]
)
def test_small_heads_of_every_kind_of_tile(
    size: int, heads: int, kv_heads: int, sliding: bool, dtype: torch.dtype
) -> None:
    lines = (chunk(1, 0, 8, 0), chunk(2, 16, 1, 4), canvas(0, 8, 8, 3))
    (q, pool), (their_q, their_pool) = both(
        make_tiles(64, *lines, idle=1), 256, size, heads, kv_heads, 8, sliding, dtype
    )
    held(q, their_q, slice(0, 192))
    held(pool, their_pool)
    page = [9, 0] if sliding else [5, 14]  # pages of sliding layers run backwards
    assert written(pool) == sorted([*page, 15]) and (pool != FULL).any((1, 2, 4))[page[1]].sum() == 1


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("size", "heads", "kv_heads", "sliding"), [(256, 2, 1, True), (512, 1, 1, False)])
def test_heads_of_the_real_sizes_whose_programs_end_at_a_border_of_rows(
    size: int, heads: int, kv_heads: int, sliding: bool, dtype: torch.dtype
) -> None:
    lines = (chunk(1, 0, 64, 0), canvas(0, 8, 17, 3))  # 17 rows: one past a program's 16, and past two programs' 8
    (q, pool), (their_q, their_pool) = both(make_tiles(64, *lines), 128, size, heads, kv_heads, 64, sliding, dtype)
    held(q, their_q)
    held(pool, their_pool)
    assert written(pool) == sorted([(9 if sliding else 5), 15])
    assert pool[15, :, :, 17:].eq(FULL).all()


@pytest.mark.parametrize("span", [(0, 1), (3, 5), (9, 64), (64, 128), (70, 73), (0, 0)])
def test_only_rows_of_the_span_are_placed(span: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = make_tiles(64, chunk(1, 0, 64, 0), canvas(0, 8, 64, 3), span=(span[0], span[1]))
    mark_outputs(monkeypatch)
    (q, pool), (their_q, their_pool) = both(tiles, 128, 256, 1, 1, 64, True, torch.float32)
    held(q, their_q, slice(*span))
    assert untouched(q, *span)
    held(pool, their_pool)


def test_a_canvas_whose_chunk_has_no_page_yet_goes_to_its_slots_own_page() -> None:
    (_, pool), _ = both(make_tiles(64, canvas(2, 40, 8, 1 << 28)), 64, 8, 2, 1, 8, True, torch.float32)
    assert written(pool) == [SLOTS * CHUNKS + 2]


def test_a_page_past_the_first_two_gigabytes_of_the_pool_is_found() -> None:
    slots, tiles = make_slots(1, 64, 4, 4), make_tiles(64, canvas(0, 0, 64, 0))
    pool = torch.empty(2**31 // (2 * 64 * 512) + 1, 2, 1, 64, 512, dtype=torch.float16)  # only asked for
    qkv, half, weight = random(64, 1024).half(), torch.zeros(64, 256).half(), torch.ones(512).half()
    place_heads(qkv, half + 1, half, weight, weight, slots, tiles, pool, False, 1, EPS)
    assert pool[-1].float().square().mean(-1).sub(1).abs().max() < 0.01
