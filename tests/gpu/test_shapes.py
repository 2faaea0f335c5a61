"""Every operation at sizes that no block fits, in bfloat16 and in float32, against its twin.

bfloat16: as the case says. float32: 3e-5 of the size of a result, for sums in another order; 1e-3 where an
exponential stands between, of scores of up to 60.
"""

from __future__ import annotations

import pytest
import torch

from dgbatch.bench.kernels.case import SPAN, Case
from dgbatch.bench.kernels.cases import TINY, cases, ragged
from dgbatch.bench.kernels.seats import Company, Seat
from tests.gpu.machine import DEVICE, operation, same, twin
from tests.gpu.test_error import error

pytestmark = pytest.mark.gpu

COMPANIES = {
    "ragged": ragged(TINY),
    "one canvas and no text": Company((Seat(0, step=0),), TINY.canvas),
    "one chunk and no canvas": Company((Seat(3, chunks=1, canvas=False), None), TINY.canvas, room=2),
    "nobody": Company((None, None), TINY.canvas, room=2),
}
FLOAT32 = {"attend": 1e-3, "head": 1e-3}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("case", cases(TINY), ids=lambda case: case.name)
def test_an_operation_is_that_of_its_twin_at_odd_sizes(case: Case, dtype: torch.dtype) -> None:
    for who, company in COMPANIES.items():
        given, again = (case.arguments(company, dtype, DEVICE) for _ in range(2))
        ours = case.results(company, given, operation(case)(*given))
        expected = case.results(company, again, twin(case, again))
        tolerance = case.tolerance if dtype == torch.bfloat16 else FLOAT32.get(case.operation, 3e-5)
        for name, own in ours.items():
            if not own.numel():
                continue
            if own.is_floating_point():
                assert torch.equal(own.isfinite(), expected[name].isfinite()), (who, name)
                there = own.isfinite()
                if there.any():
                    off = error(own[there], expected[name][there]).max()
                    assert off <= tolerance, (who, name, off)
            elif dtype == torch.float32 or name in ("counts", "places", "positions", "fresh"):
                share = (own == expected[name]).double().mean()
                assert share >= (0.99 if name in ("index", "argmaxima", "drawn") else 1.0), (who, name, share)


@pytest.mark.parametrize(
    "case", [case for case in cases(TINY) if SPAN in case.inputs.values()], ids=lambda case: case.name
)
def test_rows_of_canvases_alone_are_what_they_are_among_everyone(case: Case) -> None:
    """The last layer, and what a canvas believes, leave the chunks before them out."""
    company = COMPANIES["ragged"]
    given, again = (case.arguments(company, torch.bfloat16, DEVICE) for _ in range(2))
    at = next(at for at, kind in case.inputs.items() if kind == SPAN)
    canvases = company.laid(DEVICE).canvases
    narrowed = tuple(canvases if place == at else one for place, one in enumerate(again))
    everyone = case.results(company, given, operation(case)(*given))
    alone = case.results(company, narrowed, operation(case)(*narrowed))
    if case.operation == "group_rows":  # places are those of fewer rows
        assert alone["counts"].sum() == company.canvases * company.tile_rows * TINY.chosen
        return
    first = sum(tile[3] for tile in company.table if not tile[1])
    assert not same(*({name: own[first:] for name, own in told.items()} for told in (everyone, alone)))
