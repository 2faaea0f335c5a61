"""The same bits again: in a second run, in a CUDA graph, and for a tile in any company."""

from __future__ import annotations

import pytest
import torch

from dgbatch.bench.kernels.case import Arguments, Case
from dgbatch.bench.kernels.seats import Company
from dgbatch.engine.kernels.tables import Of
from tests.gpu.machine import CASES, DEVICE, SHAPE, crowd, operation, same
from tests.gpu.rearranged import Pass

pytestmark = pytest.mark.gpu

PAIR = Company.of(SHAPE, canvases=1, chunks=1, prefix=2 * SHAPE.canvas + 5)
CROWD = crowd()
# plan_tiles decides who is company, and group_rows lists everybody
TILED = [case for case in CASES if case.operation not in ("plan_tiles", "group_rows")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_second_run_and_a_graph_give_the_same_bits(case: Case) -> None:
    """Captured, an operation may ask the device nothing."""
    first, second, third = (case.arguments(PAIR, torch.bfloat16, DEVICE) for _ in range(3))
    ran = case.results(PAIR, first, operation(case)(*first))
    again = case.results(PAIR, second, operation(case)(*second))
    assert not same(ran, again)
    replayed = case.results(PAIR, third, in_a_graph(case, third))
    assert not same(ran, replayed)


def in_a_graph(case: Case, arguments: Arguments) -> object:
    if DEVICE == "cpu":
        return operation(case)(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # which launches nothing
        returned = operation(case)(*arguments)
    graph.replay()
    torch.cuda.synchronize()
    return returned


def companies() -> dict[str, Pass]:
    """Passes with fewer of the crowd's tiles; whoever has chunks and a canvas keeps both."""
    slots = len(CROWD.seats)
    reversed_slots = tuple(reversed(range(slots)))
    tiles = range(len(CROWD.table))
    canvas = max(tiles)
    third = [tile for tile in tiles if CROWD.table[tile][Of.SLOT] in (1, 8, 12)]
    own = [tile for tile in tiles if CROWD.table[tile][Of.SLOT] == CROWD.table[canvas][Of.SLOT]]
    return {
        "alone": Pass(CROWD, tuple(own), len(own), tuple(range(slots))),
        "alone with room": Pass(CROWD, tuple(own), 6, tuple(range(slots))),
        "a few in other slots": Pass(CROWD, tuple(third), 5, reversed_slots),
        "all in other slots": Pass(CROWD, tuple(tiles), 24, reversed_slots),
    }


@pytest.mark.parametrize("case", TILED, ids=lambda case: case.name)
def test_a_tile_has_the_same_bits_in_any_company(case: Case) -> None:
    """Alone, in a crowd, in another slot, with more room: other blocks of rows and token tiles, the same sums."""
    given = case.arguments(CROWD, torch.bfloat16, DEVICE)
    passes = {who: (own, own.of(case, given)) for who, own in companies().items()}  # before anything is written
    whole = Pass.whole(CROWD)
    crowded = operation(case)(*given)
    for who, (own, arguments) in passes.items():
        returned = operation(case)(*arguments)
        for tile in own.kept:
            ours = own.results(case, arguments, returned, tile)
            theirs = whole.results(case, given, crowded, tile)
            assert ours or not CROWD.table[tile][Of.CANVAS]
            assert not same(ours, theirs), (who, tile)
