"""Every operation at the shapes of a model, and who is at work when it is tried."""

from __future__ import annotations

from dgbatch.bench.kernels import layer_cases, turn_cases
from dgbatch.bench.kernels.case import Case
from dgbatch.bench.kernels.seats import Company, Seat
from dgbatch.roofline import DIFFUSIONGEMMA_26B, Layer, Shape

REAL = DIFFUSIONGEMMA_26B
# Odd on purpose: no size but the heads' is a power of two, and the canvas fills no tile.
TINY = Shape(
    hidden=48,
    vocab=300,
    heads=4,
    layers=(Layer(True, 2, 16), Layer(False, 1, 32)),
    window=24,
    dense_width=40,
    experts=6,
    chosen=2,
    expert_width=24,
    canvas=12,
)


def cases(shape: Shape = REAL) -> tuple[Case, ...]:
    """In the order of a step."""
    return (*layer_cases.cases(shape), *turn_cases.cases(shape))


def ragged(shape: Shape) -> Company:
    """All that may meet in one pass: an empty slot, a first step, prompts with ends, a folded commit, chunks, room."""
    canvas = shape.canvas
    return Company(
        (
            Seat(2 * canvas + canvas // 3, settled=1, step=0, chunks=1),
            Seat(1),
            None,
            Seat(3 * canvas, settled=2),
            Seat(5 * canvas - 1, chunks=3, canvas=False, later=1),
            Seat(canvas - 1, settled=3, step=47),
        ),
        canvas,
        room=12,
    )
