"""The products with weights in plain PyTorch: projections, gated MLPs, and what the experts need.

Axis words: M rows of all tiles, K what a product sums over, N its outputs, H hidden, E experts, I the width of one,
k `chosen`, how many a row goes to. `span` is [first, end) of the rows at work, (2,) int32; rows outside it are not
looked at and their results are undefined. These twins read tensors' values, which kernels must not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dgbatch.engine.kernels.reference.plain import GROUP_ROWS, gelu_gate


def linear(x: Tensor, weight: Tensor, span: Tensor) -> Tensor:
    """x weight^T. x: (M, K); weight: (N, K); returns (M, N) like x."""
    at_work = slice(*span.tolist())
    out = x.new_empty(x.shape[0], weight.shape[0])
    out[at_work] = F.linear(x[at_work], weight)
    return out


def gated(x: Tensor, gate_up: Tensor, span: Tensor) -> Tensor:
    """gelu_tanh(x gate^T) * (x up^T), both products rounded to x's dtype before.

    x: (M, K); gate_up: (2 I, K), gate rows first; returns (M, I) like x.
    """
    at_work = slice(*span.tolist())
    out = x.new_empty(x.shape[0], gate_up.shape[0] // 2)
    out[at_work] = gelu_gate(*F.linear(x[at_work], gate_up).chunk(2, dim=-1))
    return out


def choose_experts(
    unit: Tensor, proj: Tensor, scale: Tensor, per_expert_scale: Tensor, chosen: int, span: Tensor
) -> tuple[Tensor, Tensor]:
    """Which experts a row goes to, the likeliest first, and how much each counts.

    scores = (unit * scale * H^-0.5) proj^T; of their softmax the `chosen` largest, divided by their sum, times the
    expert's own scale. Of equal scores the lower expert's comes first.

    unit: (M, H), the residual after a norm without weight; proj: (E, H); scale: (H,); per_expert_scale: (E,)
    returns (M, k) float32 weights, (M, k) int32 experts
    """
    at_work = slice(*span.tolist())
    scores = F.linear(unit[at_work] * scale * unit.shape[-1] ** -0.5, proj).float()
    order = scores.sort(dim=-1, descending=True, stable=True).indices[:, :chosen]
    top = scores.softmax(-1).gather(1, order)
    weights = unit.new_empty(unit.shape[0], chosen, dtype=torch.float32)
    index = torch.empty_like(weights, dtype=torch.int32)
    weights[at_work] = top / top.sum(-1, keepdim=True) * per_expert_scale[order].float()
    index[at_work] = order.int()
    return weights, index


def group_rows(index: Tensor, experts: int, span: Tensor) -> tuple[Tensor, Tensor]:
    """Of each expert, how many rows chose it and where they stand in `index`, flattened.

    index: (M, k) int32, no expert twice in a row
    returns counts (E,) int32 and places (E, M) int32: places[e, :counts[e]] ascend, the rest is undefined
    """
    rows, chosen = index.shape
    first, end = span.tolist()
    expert, order = index[first:end].flatten().long().sort(stable=True)
    counts = expert.bincount(minlength=experts)
    rank = torch.arange(len(expert), device=index.device) - (counts.cumsum(0) - counts)[expert]
    places = index.new_empty(experts, rows)
    places[expert, rank] = (order + first * chosen).int()
    return counts.int(), places


def experts_up(
    x: Tensor, gate_up: Tensor, counts: Tensor, places: Tensor, chosen: int, scale: Tensor | None = None
) -> Tensor:
    """gelu_tanh(x gate_e^T) * (x up_e^T) of every row and each expert e it chose; rounded as in `gated`.

    x: (M, H); gate_up: (E, 2 I, H), gate rows first; counts, places: from group_rows
    scale: (E, 2 I) float32 of gate_up's rows, or None for ones
    returns (M k, I) like x: row r * k + j is of row r and the j-th expert it chose
    """
    inner = x.new_empty(x.shape[0] * chosen, gate_up.shape[1] // 2)
    for expert, place, rows in _groups(counts, places):
        product = _scaled(x[rows // chosen], gate_up[expert], None if scale is None else scale[expert])
        inner[place] = gelu_gate(*product[: len(place)].chunk(2, dim=-1))
    return inner


def experts_down(inner: Tensor, down: Tensor, counts: Tensor, places: Tensor, scale: Tensor | None = None) -> Tensor:
    """inner down_e^T of every row of `inner`, e being the expert it belongs to.

    inner: (M k, I) from experts_up; down: (E, H, I); counts, places: from group_rows
    scale: (E, H) float32 of down's rows, or None for ones; returns (M k, H) like inner
    """
    outer = inner.new_empty(inner.shape[0], down.shape[1])
    for expert, place, rows in _groups(counts, places):
        product = _scaled(inner[rows], down[expert], None if scale is None else scale[expert])
        outer[place] = product[: len(place)]
    return outer


def _groups(counts: Tensor, places: Tensor) -> list[tuple[int, Tensor, Tensor]]:
    """Each expert that was chosen, its places, and those repeated to a multiple of GROUP_ROWS.

    With fewer rows libraries sum a row otherwise; so it is computed the same in any company.
    """
    groups = []
    for expert, count in enumerate(counts.tolist()):
        if count:
            place = places[expert, :count].long()
            padding = place[:1].expand(-count % GROUP_ROWS)
            groups.append((expert, place, torch.cat([place, padding])))
    return groups


def _scaled(x: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
    """x weight^T, each output times its own scale before it is rounded; the weight may be of a narrower dtype."""
    if scale is None:
        return F.linear(x, weight)
    return (F.linear(x.float(), weight.float()) * scale).to(x.dtype)
