"""How far each operation is from the truth in bfloat16 at the real model's shapes, beside how far torch is.

The truth is the twin in float64 on the same bfloat16 numbers. An error is |x - truth| / (|truth| + root mean square of
the truth). Ours may be 1.25 times torch's in the root mean square, and twice at its largest; where torch makes next to
none, half a step of a bfloat16 (2^-9) is allowed, and for what stays in float32, 2e-5: an exp of -20 by way of exp2.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dgbatch.bench.kernels.case import Case
from dgbatch.bench.kernels.seats import Company, Seat
from tests.gpu.machine import CASES, DEVICE, SHAPE, exact, operation, twin

pytestmark = pytest.mark.gpu

# A prompt with an end, a canvas of text after it; one that settles beside the canvas after it, which had no step yet.
COMPANY = Company((Seat(4 * SHAPE.canvas, step=5), Seat(SHAPE.canvas // 3, settled=2, chunks=1, step=0)), SHAPE.canvas)
ROUNDED = [case for case in CASES if case.tolerance]


def error(x: Tensor, truth: Tensor) -> Tensor:
    truth = truth.double()
    size = truth.abs() + truth.square().mean().sqrt()
    return (x.double() - truth).abs() / size.clamp_min(1e-30)


@pytest.mark.parametrize("case", ROUNDED, ids=lambda case: case.name)
def test_the_error_is_that_of_torch(case: Case) -> None:
    ours, torchs, truth = (
        case.results(COMPANY, arguments, call(arguments))
        for arguments, call in (
            (case.arguments(COMPANY, torch.bfloat16, DEVICE), lambda given: operation(case)(*given)),
            (case.arguments(COMPANY, torch.bfloat16, DEVICE), lambda given: twin(case, given)),
            (exact(case.arguments(COMPANY, torch.bfloat16, DEVICE)), lambda given: twin(case, given)),
        )
    )
    counted = torch.ones((), dtype=torch.bool, device=DEVICE)
    if case.operation == "choose_experts":  # of experts that are as good as each other either may be chosen
        counted = (ours["index"] == truth["index"]) & (torchs["index"] == truth["index"])
        assert counted.double().mean() > 0.95
    for name, own in ours.items():
        if not own.is_floating_point():
            continue
        # where nothing was written there is what was there before: NaN, or a probability of nothing
        there = truth[name].isfinite() & counted
        assert torch.equal(own.isfinite() | ~counted, there | ~counted), name
        mine, theirs = (error(tensor[name][there], truth[name][there]) for tensor in (ours, torchs))
        least = 2.0**-9 if own.dtype == torch.bfloat16 else 2e-5
        told = f"{name}: ours {mine.max():.2e}, torch's {theirs.max():.2e} at most"
        assert mine.max() <= 2 * theirs.max() + least, told
        assert mine.square().mean().sqrt() <= 1.25 * theirs.square().mean().sqrt() + least / 4, told


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_whole_numbers_are_those_of_the_twin(case: Case) -> None:
    """But where candidates are as good as equal: scores that round to one bfloat16 or to its neighbour."""
    given = case.arguments(COMPANY, torch.bfloat16, DEVICE)
    ours = case.results(COMPANY, given, operation(case)(*given))
    again = case.arguments(COMPANY, torch.bfloat16, DEVICE)
    expected = case.results(COMPANY, again, twin(case, again))
    shares = {"index": 0.97, "argmaxima": 0.97, "drawn": 0.99, "slots.frames": 0.999}
    for name, own in ours.items():
        if not own.is_floating_point():
            share = (own == expected[name]).double().mean().item()
            assert share >= shares.get(name, 1.0), (name, share)


def test_the_argmax_of_a_column_tile_is_its_largest() -> None:
    """Whichever of two near ones it is: its e is 1, and in truth it is no further off than roundings go."""
    case = next(case for case in CASES if case.operation == "head")
    given = case.arguments(COMPANY, torch.bfloat16, DEVICE)
    ours = case.results(COMPANY, given, operation(case)(*given))
    truth = case.results(COMPANY, given, twin(case, exact(given)))
    at = ours["argmaxima"].long()
    assert (ours["e"].gather(1, at) == 1).all()
    assert (truth["e"].gather(1, at) > 1 - case.tolerance).all()


def test_no_token_of_probability_zero_is_drawn() -> None:
    case = next(case for case in CASES if case.operation == "decide")
    given = case.arguments(COMPANY, torch.bfloat16, DEVICE)
    drawn = case.results(COMPANY, given, operation(case)(*given))["drawn"]
    rows = torch.tensor(COMPANY.true_canvas_rows, device=DEVICE)
    assert (given[0][rows].gather(1, drawn.long()[:, None]) > 0).all()
