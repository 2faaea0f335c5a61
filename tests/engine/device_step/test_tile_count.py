"""How many tiles a pass has room for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dgbatch.engine.device_step.tile_count import most_tiles, rung, tile_count, tile_rows

counts = st.integers(0, 80)


def test_the_graphs_are_few_and_no_more_than_half_as_large_again_as_what_they_hold() -> None:
    assert sorted({rung(tiles) for tiles in range(1, 33)}) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    assert rung(0) == 1
    assert [rung(tiles) for tiles in (33, 48, 49, 65, 97)] == [48, 48, 64, 96, 128]


@given(tiles=st.integers(1, 500))
def test_a_rung_holds_what_it_is_asked_for(tiles: int) -> None:
    assert tiles <= rung(tiles) <= 3 * tiles // 2


def test_canvases_alone_have_just_their_own_room_until_one_is_near_its_end() -> None:
    assert tile_count(0, 8, 0, fold=True) == 8
    assert tile_count(0, 8, 1, fold=True) == 12
    assert tile_count(0, 1, 0, fold=True) == 1
    assert tile_count(0, 1, 1, fold=True) == 2


def test_without_fold_a_text_never_comes_beside_its_canvas() -> None:
    assert tile_count(0, 8, 5, fold=False) == 8
    assert tile_count(4, 8, 5, fold=False) == 12


@given(prompt_tiles=st.integers(1, 8), canvases=counts, ending=counts, settled=counts)
def test_with_prompts_there_is_room_whatever_canvases_settle(
    prompt_tiles: int, canvases: int, ending: int, settled: int
) -> None:
    room = tile_count(prompt_tiles, canvases, min(ending, canvases), fold=True)
    assert prompt_tiles + canvases + min(settled, canvases) <= room


@given(prompt_tiles=counts, canvases=st.integers(1, 64), ending=counts, fold=st.booleans())
def test_no_pass_is_larger_than_what_was_allocated(prompt_tiles: int, canvases: int, ending: int, fold: bool) -> None:
    assert tile_count(prompt_tiles, canvases, min(ending, canvases), fold) <= most_tiles(canvases, prompt_tiles)


def test_a_tile_is_a_canvas_rounded_up_to_what_tensor_cores_take() -> None:
    assert [tile_rows(length) for length in (8, 48, 64, 256)] == [64, 64, 64, 256]
