"""Twins of the kernels that work row by row: what goes into a layer's products, and what is made of what comes out.

Rounding is that of the eager model (engine/model): float32 inside a norm, and whatever the model keeps in the weights'
dtype is rounded to it here. Rows outside the span are NaN in what is returned: a kernel leaves anything there, and a
test sees whoever reads it. Spans are read on the host, which only a twin may do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dgbatch.engine.kernels.reference.plain import add_rms_norm, rms_norm, rope
from dgbatch.engine.kernels.tables import Of, Slots, Tiles


def at_work(span: Tensor) -> slice:
    """The rows [first, end) of a span, (2,) int32."""
    first, end = span.tolist()
    return slice(first, end)


def of_rows(tiles: Tiles, tile_rows: int) -> Tensor:
    """(M, 8) int64, columns of Of: the table's line for each row."""
    return tiles.table.long().repeat_interleave(tile_rows, 0)


def numbers_in_tile(tiles: Tiles, tile_rows: int) -> Tensor:
    """(M,) int64: which row of its tile a row is."""
    return torch.arange(tile_rows, device=tiles.device).repeat(len(tiles.table))


def _undefined(like: Tensor, *shape: int) -> Tensor:
    return like.new_full(shape or like.shape, float("nan"))


def _tile_rows(rows: Tensor, tiles: Tiles) -> int:
    return len(rows) // len(tiles.table)


def embed_rows(
    slots: Slots, tiles: Tiles, embedding: Tensor, scale: float, soft_norm: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of tokens, and what the last step believed of those of a canvas, normed for the self-conditioning MLP.

    embedding: (V, H); soft_norm: (H,)
    embedded: (M, H) = embedding[token] * scale; padding is the token of its own number, so that its rows do not all
    choose the same experts
    conditioned: (M, H) = rms_norm(soft) of canvases that had a step; zero for all other rows at work
    positions: (M,) int32; padding has its tile's first; 0 outside the rows at work
    """
    size = slots.canvas.shape[1]
    work = at_work(tiles.everyone)
    table, number = of_rows(tiles, size)[work], numbers_in_tile(tiles, size)[work]
    slot, canvas, there = table[:, Of.SLOT], table[:, Of.CANVAS] == 1, number < table[:, Of.ROWS]
    position = table[:, Of.START] + torch.where(there, number, 0)
    written = slots.text[slot, torch.where(canvas, 0, position)]
    token = torch.where(there, torch.where(canvas, slots.canvas[slot, number], written), number % len(embedding))
    believed = rms_norm(slots.soft[slot, number], soft_norm, eps)
    known = canvas & there & (table[:, Of.FIRST] == 0)

    positions = tiles.table.new_zeros(len(tiles.table) * size)
    embedded = _undefined(embedding, len(positions), embedding.shape[1])
    conditioned = torch.empty_like(embedded).copy_(embedded)
    positions[work] = position.int()
    embedded[work] = (embedding[token].float() * scale).to(embedding.dtype)
    conditioned[work] = torch.where(known.unsqueeze(-1), believed, 0)
    return embedded, conditioned, positions


def condition(embedded: Tensor, branch: Tensor, tiles: Tiles, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """What goes into the first layer: canvases with the self-conditioning branch and a norm without weight.

    embedded, branch: (M, H); weight: (H,), the first layer's norm before attention
    x: (M, H) = rms_norm(embedded + branch) of canvases (no branch before their first step), embedded of clean text
    h: (M, H) = rms_norm(x) * weight
    """
    work = at_work(tiles.everyone)
    table = of_rows(tiles, _tile_rows(embedded, tiles))[work]
    canvas, first = (table[:, column].bool().unsqueeze(-1) for column in (Of.CANVAS, Of.FIRST))
    own = embedded[work]
    mixed = torch.where(first, own, own + branch[work])
    x, h = _undefined(embedded), _undefined(embedded)
    x[work] = torch.where(canvas, rms_norm(mixed, None, eps), own)
    h[work] = rms_norm(x[work], weight, eps)
    return x, h


def place_heads(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    slots: Slots,
    tiles: Tiles,
    pool: Tensor,
    sliding: bool,
    heads: int,
    eps: float,
) -> Tensor:
    """Norms and rotation of heads. Keys and values go to their pages; queries are returned, (M, heads, D).

    qkv: (M, (heads + kv_heads [+ kv_heads]) * D); without a part for V, V is K before weight and rotation
    cos, sin: (M, D / 2); q_weight, k_weight: (D,)
    pool: (P + S, 2, kv_heads, C, D): pages of chunks, then a page for each slot's canvas
    unit = x / rms(x) per head in float32; q, k = rope((unit * weight) rounded); v = unit
    """
    kv_heads, size = pool.shape[2], pool.shape[-1]
    rows = _tile_rows(qkv, tiles)
    work = at_work(tiles.everyone)
    unit = rms_norm(qkv[work].unflatten(-1, (-1, size)).float(), None, eps)
    weights = torch.cat([q_weight.expand(heads, -1), k_weight.expand(kv_heads, -1)])
    angles = (torch.cat([half[work], half[work]], -1) for half in (cos, sin))
    turned = rope((unit[:, : heads + kv_heads] * weights).to(qkv.dtype), *angles)
    q = _undefined(qkv, len(qkv), heads, size)
    q[work] = turned[:, :heads]

    table, number = of_rows(tiles, rows)[work], numbers_in_tile(tiles, rows)[work]
    slot = table[:, Of.SLOT]
    canvas = table[:, Of.CANVAS] == 1
    chunk = torch.where(canvas, 0, table[:, Of.CHUNK])  # a canvas's chunk may have no page yet
    kept = slots.pages[int(sliding), slot, chunk].long()
    page = torch.where(canvas, len(pool) - len(slots.numbers) + slot, kept)
    there = number < table[:, Of.ROWS]
    page, number = page[there], number[there]
    pool[page, 0, :, number] = turned[there, heads:]
    pool[page, 1, :, number] = unit[there, -kv_heads:].to(pool.dtype)
    return q


def residual_norms(
    x: Tensor, attended: Tensor, after: Tensor, before_mlp: Tensor, before_experts: Tensor, eps: float, span: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The residual after attention, and the three readings of it; one length per row serves them all.

    x, attended: (M, H); the weights: (H,)
    x': (M, H) = x + rms_norm(attended) * after; u = x' / rms(x') in float32
    dense_in, experts_in, unit: (M, H) = u * before_mlp, u * before_experts, u
    """
    work = at_work(span)
    moved = add_rms_norm(x[work], attended[work], after, eps)
    u = rms_norm(moved.float(), None, eps)
    returned = _undefined(x), _undefined(x), _undefined(x), _undefined(x)
    for whole, part in zip(returned, (moved, u * before_mlp, u * before_experts, u), strict=True):
        whole[work] = part.to(x.dtype)
    return returned


def combine(
    x: Tensor,
    dense: Tensor,
    outer: Tensor,
    weights: Tensor,
    after_mlp: Tensor,
    after_experts: Tensor,
    after_both: Tensor,
    scalars: Tensor,
    tiles: Tiles,
    next_weight: Tensor,
    eps: float,
    span: Tensor,
) -> tuple[Tensor, Tensor]:
    """The end of a layer: the experts of a row added up, both branches normed, the residual scaled, and the next norm.

    x, dense: (M, H); outer: (M * k, H), what each chosen expert made; weights: (M, k) float32
    after_mlp, after_experts, after_both, next_weight: (H,); scalars: (2,) float32 of clean text and of canvases
    chosen = sum_j weights[:, j] * outer[row * k + j] in float32, j ascending
    mixed = rms_norm(dense) * after_mlp + rms_norm(chosen) * after_experts
    x': (M, H) = (x + rms_norm(mixed) * after_both) * scalar; h: (M, H) = rms_norm(x') * next_weight
    """
    work = at_work(span)
    canvas = of_rows(tiles, _tile_rows(x, tiles))[work, Of.CANVAS]
    made = outer.unflatten(0, weights.shape)[work].float()
    chosen = torch.zeros_like(made[:, 0])
    for slot, weight in enumerate(weights[work].unbind(1)):
        chosen += weight.unsqueeze(-1) * made[:, slot]
    mixed = add_rms_norm(rms_norm(dense[work], after_mlp, eps), chosen.to(x.dtype), after_experts, eps)
    moved = add_rms_norm(x[work], mixed, after_both, eps)
    scaled, h = _undefined(x), _undefined(x)
    scaled[work] = (moved.float() * scalars[canvas].unsqueeze(-1)).to(x.dtype)
    h[work] = rms_norm(scaled[work], next_weight, eps)
    return scaled, h
