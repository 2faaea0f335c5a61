"""How like two results of an operation are: to the bit, and by the measure of a case's tolerance."""

from __future__ import annotations

import torch
from torch import Tensor

Results = dict[str, Tensor]

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def kept(results: Results) -> Results:
    """Of which nothing is written over."""
    return {name: tensor.clone() for name, tensor in results.items()}


def likeness(mine: Results, theirs: Results) -> tuple[bool, float]:
    """Whether all bits are the same; the largest |difference| / (|theirs| + their RMS); inf for NaN in one."""
    if all(torch.equal(_bits(mine[name]), _bits(theirs[name])) for name in theirs):
        return True, 0.0
    return False, max((_largest(mine[name], theirs[name]) for name in theirs), default=0.0)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(_BITS[tensor.element_size()])


def _largest(mine: Tensor, theirs: Tensor) -> float:
    """Of whole numbers nothing: which of two maxima is first may depend on a rounding."""
    if not theirs.is_floating_point() or not theirs.numel():
        return 0.0
    a, b = mine.float(), theirs.float()
    size = b.abs() + b.where(b.isfinite(), 0).square().mean().sqrt()
    alike = (a == b) | (a.isnan() & b.isnan())  # what nobody wrote is NaN in both
    difference = torch.where(alike, 0.0, (a - b).abs() / size)
    return float(difference.nan_to_num(nan=torch.inf, posinf=torch.inf).max())
