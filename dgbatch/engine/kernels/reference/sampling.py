"""From the last layer's rows to what a step draws and believes: twins of head, decide and soft_rows.

A probability is never stored. The head stores e = exp(z - m), m the maximum of z over the row's own column tile of 128
tokens, and four numbers for each such tile; `decide` makes of them one factor by which e is a probability.
Axis words: N rows of canvases, W column tiles of the vocabulary; others as in tables.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dgbatch.engine.kernels.reference.philox import LOW, level_of, philox, token_of
from dgbatch.engine.kernels.reference.plain import softcap
from dgbatch.engine.kernels.tables import HEAD_COLUMNS, Number, Of, Slots, Tiles

LOWEST = -1e4  # a difference of two z from which exp makes 0, and 0 times it is 0; 0 * -inf would be none


def head(
    h: Tensor, embedding: Tensor, slots: Slots, tiles: Tiles, cap: float, canvases: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """z = cap tanh(h E^T / cap) / temperature, and of each row and column tile: m = max z, e = exp(z - m), its sums.

    h: (M, H) normed; embedding: (V, H); canvases: how many there may be, N = canvases * R; row j of what comes back is
    row tiles.canvases[0] + j of h
    returns: e (N, V) in the weights' dtype; sum of e, sum of e * (z - m), m (N, W) float32; argmax of z (N, W) int32
    The product is rounded to the weights' dtype before the softcap, all else is float32; the sums are of e as it was
    before rounding. A token that is not allowed has z = -inf; where a tile has no other, m = -inf and e = 0.
    """
    rows, vocab = slots.canvas.shape[1], embedding.shape[0]
    columns = -(-vocab // HEAD_COLUMNS)
    first, end = tiles.canvases.tolist()
    n = end - first
    e = h.new_empty(canvases * rows, vocab)
    totals, moments, maxima = h.new_empty(3, canvases * rows, columns, dtype=torch.float32)
    argmaxima = h.new_empty(canvases * rows, columns, dtype=torch.int32)
    slot, temperature = _slots_at_work(slots, tiles), tiles.temperature[first // rows : end // rows]
    z = softcap(F.linear(h[first:end], embedding), cap).view(-1, rows, vocab).div_(temperature[:, None, None])
    z.masked_fill_((slots.allowed[slot] == 0)[:, None], float("-inf"))
    z = F.pad(z, (0, columns * HEAD_COLUMNS - vocab), value=float("-inf")).view(n, columns, HEAD_COLUMNS)
    maxima[:n], argmax = z.max(-1)
    argmaxima[:n] = argmax.int() + HEAD_COLUMNS * torch.arange(columns, dtype=torch.int32, device=e.device)
    below = z.sub_(maxima[:n, :, None].nan_to_num(neginf=0.0)).clamp_min_(LOWEST)
    exact = below.exp()
    e[:n] = exact.flatten(1)[:, :vocab]
    totals[:n] = exact.sum(-1)
    moments[:n] = exact.mul_(below).sum(-1)
    return e, totals, moments, maxima, argmaxima


def decide(
    e: Tensor, totals: Tensor, moments: Tensor, maxima: Tensor, argmaxima: Tensor, slots: Slots, tiles: Tiles
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What each row believes in sum, and one token drawn from it.

    m = max m_t, a_t = exp(m_t - m), w_t = totals_t a_t, S = sum w_t, over the row's column tiles t
    H = log S - sum a_t (moments_t + (m_t - m) totals_t) / S, the entropy of the row in nats
    e, totals, moments, maxima, argmaxima: what `head` returned
    returns: H (N,) float32; argmax, drawn, fresh (N,) int32; factors (N, W) float32, a_t / S: e times it is p
    drawn is the first token whose cumulated probability reaches a level: the column tile by its w_t, then the token by
    e inside of it; never one of probability 0, and the argmax where its slot is greedy. Levels and fresh tokens are
    those of engine/noise.py.
    """
    rows, vocab = slots.canvas.shape[1], e.shape[1]
    first, end = tiles.canvases.tolist()
    n = end - first
    entropy = totals.new_empty(len(e))
    argmax, drawn, fresh = argmaxima.new_empty(3, len(e))
    factors = torch.empty_like(totals)
    totals, moments, maxima = totals[:n], moments[:n], maxima[:n]
    m, best = maxima.max(-1, keepdim=True)
    below = (maxima - m).clamp_min(LOWEST)
    a = below.exp()
    w = totals * a
    total = w.sum(-1, keepdim=True)
    factors[:n] = a / total
    spread = (a * (moments + below * totals)).sum(-1, keepdim=True)
    entropy[:n] = (total.log() - spread / total).clamp_min(0).squeeze(-1)
    argmax[:n] = argmaxima[:n].gather(1, best).squeeze(-1)

    slot = _slots_at_work(slots, tiles)
    level, fresh[:n] = _noise(slots, slot, rows, vocab)
    cumulated = w.cumsum(-1)
    target = level[:, None] * cumulated[:, -1:]
    tile = _first(cumulated, target, w)
    before = (cumulated - w).gather(1, tile)
    share = ((target - before) / w.gather(1, tile)).clamp(0, 1)
    ids = tile * HEAD_COLUMNS + torch.arange(HEAD_COLUMNS, device=e.device)
    own = e[:n].gather(1, ids.clamp_max(vocab - 1)).float() * (ids < vocab)
    cumulated = own.cumsum(-1)
    drawn[:n] = ids.gather(1, _first(cumulated, share * cumulated[:, -1:], own)).squeeze(-1)
    greedy = (slots.numbers[slot, Number.GREEDY] != 0).repeat_interleave(rows)
    drawn[:n] = torch.where(greedy, argmax[:n], drawn[:n])
    return entropy, argmax, drawn, fresh, factors


def soft_rows(e: Tensor, factors: Tensor, embedding: Tensor, scale: float, slots: Slots, tiles: Tiles) -> None:
    """The mean embedding under p of every canvas row, into slots.soft: (p E) * scale, rounded after each.

    e: (N, V) in the weights' dtype; factors: (N, W) float32; embedding: (V, H)
    p = e * factor, rounded to the weights' dtype before the product as plain.soft_embeddings does.
    """
    rows, vocab = slots.canvas.shape[1], len(embedding)
    first, end = tiles.canvases.tolist()
    if first == end:
        return
    n, length = end - first, int(tiles.table[first // rows, Of.ROWS])
    p = e[:n].float() * factors[:n].repeat_interleave(HEAD_COLUMNS, dim=-1)[:, :vocab]
    soft = (p.to(embedding.dtype) @ embedding) * scale
    slots.soft[_slots_at_work(slots, tiles), :length] = soft.view(-1, rows, soft.shape[-1])[:, :length]


def _slots_at_work(slots: Slots, tiles: Tiles) -> Tensor:
    """(canvases at work,) int64."""
    first, end = (edge // slots.canvas.shape[1] for edge in tiles.canvases.tolist())
    return tiles.table[first:end, Of.SLOT].long()


def _noise(slots: Slots, slot: Tensor, rows: int, vocab: int) -> tuple[Tensor, Tensor]:
    """The levels of a step, and the tokens that the next one begins with where nothing was accepted."""
    numbers = slots.numbers[slot].long().unsqueeze(-1)
    position = torch.arange(rows, device=slots.device)
    key = numbers[:, Number.KEY_LOW] & LOW, numbers[:, Number.KEY_HIGH] & LOW
    zero, step, canvas = torch.zeros_like(position), numbers[:, Number.STEP], numbers[:, Number.CANVAS]
    level = level_of(philox((zero, position, step, canvas), key)[1])
    fresh = token_of(philox((zero, position, step + 1, canvas), key)[0], vocab)
    return level.flatten(), fresh.int().flatten()


def _first(cumulated: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """(n, 1): the first that reaches the target and is not 0; the last that is not 0 where rounding lets none."""
    possible = weights > 0
    reached = ((cumulated >= target) & possible).int()
    last = weights.shape[1] - 1 - possible.flip(1).int().argmax(1, keepdim=True)
    return torch.where(reached.any(1, keepdim=True), reached.argmax(1, keepdim=True), last)
