"""An operation at one shape: arguments for it, what of its results counts, and the least that it must do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dgbatch.bench.kernels.draw import Draw
from dgbatch.bench.kernels.seats import Company
from dgbatch.roofline import Shape

# How tensors lie: a row for each row of tiles, for each expert that one chose, for each row of canvases; for each
# expert a list; not by row at all. What of an output counts is rows at work without the padding of tiles.
ROWS, CHOICES, CANVAS_ROWS, LISTS, WHOLE = "rows", "choices", "canvas rows", "lists", "whole"
SPAN, POOL = "span", "pool"
ULP = 2.0**-7  # what a bfloat16 moves at most, relative, when it is rounded the other way
EPS, CAP = 1e-6, 30.0

Arguments = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """The least that must be moved and done: inputs read once, outputs written once; sums of products."""

    bytes: float
    flops: float = 0.0


@dataclass(frozen=True, slots=True)
class Case:
    """One operation of kernels/operations.py at one shape."""

    name: str
    operation: str
    shape: Shape
    make: Callable[[Draw], Arguments]
    least: Callable[[Company, int], Work]  # of a company, and the bytes of a weight
    inputs: Mapping[int, str]  # how those arguments lie that belong to one pass; Slots and Tiles are plain to see
    outputs: Mapping[str, str]  # what it returns, in order, and how it lies
    writes: Mapping[str, Callable[[Arguments], Tensor]] = field(default_factory=dict)  # arguments that it changes
    # In bfloat16, ours against the twin: the largest |difference| / (|twin| + the twin's root mean square).
    # Integers are the same, but where candidates are as good as equal.
    tolerance: float = ULP

    def arguments(
        self, company: Company, dtype: torch.dtype, device: str | torch.device = "cpu", seed: int = 0
    ) -> Arguments:
        """Positional arguments, the same for the same seed and kind of device. On "meta" they have no values."""
        return self.make(Draw(self.shape, company, dtype, torch.device(device), 1000 * seed))

    def results(self, company: Company, arguments: Arguments, returned: Any) -> dict[str, Tensor]:
        """What counts of a call's outcome, by name: of what it returned and of what it wrote."""
        returned = returned if isinstance(returned, tuple) else (returned,)
        outputs = dict(zip(self.outputs, returned, strict=True)) if self.outputs else {}
        told = {name: _counting(company, tensor, self.outputs[name], outputs) for name, tensor in outputs.items()}
        return told | {name: find(arguments) for name, find in self.writes.items()}


def _counting(company: Company, tensor: Tensor, kind: str, outputs: Mapping[str, Tensor]) -> Tensor:
    if kind == WHOLE:
        return tensor
    if kind == LISTS:  # as long as the counts beside them say
        at = torch.arange(tensor.shape[1], device=tensor.device)
        return torch.where(at < outputs["counts"][:, None], tensor, 0)
    numbers = company.true_canvas_rows if kind == CANVAS_ROWS else company.true_rows
    rows = torch.tensor(numbers, dtype=torch.int64, device=tensor.device)
    if kind == CHOICES:  # row * chosen + choice
        tensor = tensor.unflatten(0, (company.rows, -1))
    return tensor.index_select(0, rows)
