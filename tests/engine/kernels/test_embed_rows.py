from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dgbatch.engine.kernels.embed_rows import embed_rows
from dgbatch.engine.kernels.reference import rows as twins
from tests.engine.at_work import canvas, chunk, make_slots, make_tiles, random
from tests.engine.kernels.held import TYPES, held, mark_outputs, untouched

R, C, VOCAB, EPS = 4, 3, 29, 1e-6  # rows of a tile are whatever the tables say
LINES = (chunk(2, 5, 1, 1), chunk(0, 9, 3, 3), canvas(3, 12, C, 4), canvas(1, 2, C, 1, first=True))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("hidden", "idle"), [(40, 0), (64, 1), (2816, 1)])
def test_rows_of_every_kind_are_those_of_the_twin(hidden: int, idle: int, dtype: torch.dtype) -> None:
    slots = make_slots(4, R, VOCAB, hidden, dtype)
    slots.canvas[:, C:] = 1 << 30  # padding of a canvas is no token: nobody may look it up
    tiles = make_tiles(R, *LINES, idle=idle)
    embedding, weight = random(VOCAB, hidden, dtype=dtype), random(hidden, dtype=dtype)
    ours = embed_rows(slots, tiles, embedding, 53.0, weight, EPS)
    theirs = twins.embed_rows(slots, tiles, embedding, 53.0, weight, EPS)
    work = slice(0, len(LINES) * R)
    held(ours[0], theirs[0], work, few=0)
    held(ours[1], theirs[1], work)
    assert ours[2].equal(theirs[2])
    assert ours[1][8:11].any() and not ours[1][11:16].any() and not ours[1][:8].any()


def test_nothing_leaks_from_a_canvas_that_has_no_step_yet_nor_from_rows_that_are_not_there() -> None:
    slots = make_slots(4, R, VOCAB, 40)
    slots.soft[1] = torch.nan
    slots.soft[3, C:] = torch.nan
    slots.soft[[0, 2]] = torch.nan
    embedding, weight = random(VOCAB, 40), random(40)
    embedded, conditioned, _ = embed_rows(slots, make_tiles(R, *LINES), embedding, 2.0, weight, EPS)
    assert embedded.isfinite().all() and conditioned.isfinite().all()


@pytest.mark.parametrize("span", [(0, 1), (2, 4), (3, 6), (0, 0)])
def test_rows_outside_the_span_have_position_zero_and_are_nothing_else(
    span: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    slots, tiles = make_slots(4, R, VOCAB, 40), make_tiles(R, *LINES, span=span)
    arguments = (slots, tiles, random(VOCAB, 40), 2.0, random(40), EPS)
    theirs = twins.embed_rows(*arguments)
    mark_outputs(monkeypatch)
    ours = embed_rows(*arguments)
    held(ours[0], theirs[0], slice(*span))
    held(ours[1], theirs[1], slice(*span))
    assert untouched(ours[0], *span) and untouched(ours[1], *span)
    assert ours[2].equal(theirs[2]) and ours[2].count_nonzero() == span[1] - span[0]


def test_a_token_past_the_first_two_gigabytes_of_the_table_is_found() -> None:
    hidden, rows = 4096, 2**19 + 3  # 2^31 numbers before the last rows; the memory is only asked for
    embedding = torch.empty(rows, hidden, dtype=torch.float16)
    embedding[-1] = 3
    slots = make_slots(1, 1, 2, hidden, torch.float16)
    slots = replace(slots, canvas=torch.full((1, 1), rows - 1, dtype=torch.int32))
    embedded, _, _ = embed_rows(slots, make_tiles(1, canvas(0, 0, 1, 0)), embedding, 2.0, random(hidden).half(), EPS)
    assert embedded.eq(6).all()
