"""Where the tests of this folder run, and at which shapes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from dgbatch.bench.kernels.case import Arguments, Case
from dgbatch.bench.kernels.cases import REAL, TINY, cases
from dgbatch.bench.kernels.seats import Company, Seat
from dgbatch.engine.kernels import operations
from dgbatch.engine.kernels.launch import INTERPRETED

ON_CPU = os.environ.get("DGBATCH_GPU_TESTS_ON_CPU") == "1"
DEVICE = "cpu" if ON_CPU else "cuda"
SHAPE = TINY if ON_CPU else REAL
CASES = cases(SHAPE)
if ON_CPU:
    torch.set_num_threads(1)  # the products are tiny


def crowd() -> Company:
    """Many tiles, so that kernels take the blocks they take for many: chunks, canvases, long and short prefixes."""
    canvas = SHAPE.canvas
    canvases = [Seat(prompt, settled, step=number) for number, (prompt, settled) in enumerate(
        [(4 * canvas, 0), (canvas + 7, 2), (1, 1), (3 * canvas - 1, 0), (2 * canvas, 1), (5, 0), (canvas, 0), (9, 3)]
    )]  # fmt: skip
    commits = [Seat(2 * canvas + 3, settled=1, chunks=1, canvas=False), Seat(canvas // 2, chunks=1, canvas=False)]
    folded = [Seat(canvas + 1, settled=1, chunks=1, step=0), Seat(3 * canvas, chunks=2)]
    return Company((*canvases, *commits, None, *folded), canvas, room=16)


def operation(case: Case) -> Callable[..., Any]:
    """On a CPU the twin, or with TRITON_INTERPRET=1 the kernel in the interpreter: hours of it, for doubts."""
    if ON_CPU and INTERPRETED:
        return getattr(import_module(f"dgbatch.engine.kernels.{case.operation}"), case.operation)
    return getattr(operations, case.operation)


def twin(case: Case, arguments: Arguments) -> Any:
    """The plain version of it, on this device; what it makes beside its arguments is made there too."""
    with torch.device(DEVICE):
        return getattr(operations, case.operation).__wrapped__(*arguments)


def exact(arguments: Arguments) -> Arguments:
    """The same numbers in float64, where they are bfloat16."""
    return tuple(_exact(one) for one in arguments)


def _exact(one: Any) -> Any:
    if isinstance(one, Tensor):
        return one.double() if one.dtype == torch.bfloat16 else one
    if is_dataclass(one) and not isinstance(one, type):
        return replace(one, **{field.name: _exact(getattr(one, field.name)) for field in fields(one)})
    return one


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """The names of what is not the same to the bit. What nobody wrote may be NaN on both sides."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name].nan_to_num(77.0), other[name].nan_to_num(77.0))]
