"""Cases of what is decided after the layers: the head, the draw, the belief handed on, and who is in the next pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dgbatch.bench.kernels.case import CANVAS_ROWS, CAP, ROWS, ULP, Arguments, Case, Work
from dgbatch.bench.kernels.draw import Draw
from dgbatch.bench.kernels.layer_cases import embed_scale
from dgbatch.bench.kernels.seats import Company
from dgbatch.engine.kernels.tables import HEAD_COLUMNS, Told
from dgbatch.roofline import Shape


def cases(shape: Shape) -> Iterator[Case]:
    yield from (head(shape), decide(shape), soft_rows(shape))
    yield from (plan_tiles(shape, True), plan_tiles(shape, False), advance(shape))


def head(shape: Shape) -> Case:
    def make(draw: Draw) -> Arguments:
        h, embedding = draw.rows(shape.hidden), draw.weight(shape.vocab, shape.hidden)
        return h, embedding, draw.slots(), draw.tiles(), CAP, draw.company.canvas_room

    def least(company: Company, size: int) -> Work:
        rows, columns = company.canvases * company.length, column_tiles(shape)
        moved = (shape.vocab * shape.hidden + rows * (shape.hidden + shape.vocab)) * size
        return Work(
            moved + rows * columns * 16 + company.canvases * shape.vocab, 2.0 * rows * shape.vocab * shape.hidden
        )

    names = ("e", "totals", "moments", "maxima", "argmaxima")
    inputs = {0: ROWS}
    # A logit of 4 that is rounded the other way moves by 2^-6, so z by 2^-6 / 0.4, and e = exp(z - m) as much.
    return Case("head", "head", shape, make, least, inputs, dict.fromkeys(names, CANVAS_ROWS), tolerance=8 * ULP)


def decide(shape: Shape) -> Case:
    def make(draw: Draw) -> Arguments:
        return *believed(draw)[:5], draw.slots(), draw.tiles()

    def least(company: Company, size: int) -> Work:
        rows = company.canvases * company.length
        return Work(rows * (column_tiles(shape) * 20 + HEAD_COLUMNS * size + 16))

    names = ("entropy", "argmax", "drawn", "fresh", "factors")
    inputs = dict.fromkeys(range(5), CANVAS_ROWS)
    # float32 throughout: sums of 2,048 tiles in another order
    return Case("decide", "decide", shape, make, least, inputs, dict.fromkeys(names, CANVAS_ROWS), tolerance=1e-5)


def soft_rows(shape: Shape) -> Case:
    def make(draw: Draw) -> Arguments:
        e, *_, factors = believed(draw)
        embedding = draw.normal(shape.vocab, shape.hidden, scale=0.02)
        return e, factors, embedding, embed_scale(shape), draw.slots(), draw.tiles()

    def least(company: Company, size: int) -> Work:
        rows = company.canvases * company.length
        moved = (rows * shape.vocab + shape.vocab * shape.hidden + rows * shape.hidden) * size
        return Work(moved + rows * column_tiles(shape) * 4, 2.0 * rows * shape.vocab * shape.hidden)

    writes = {"slots.soft": lambda arguments: arguments[4].soft}
    inputs = {0: CANVAS_ROWS, 1: CANVAS_ROWS}
    return Case("soft_rows", "soft_rows", shape, make, least, inputs, {}, writes, tolerance=2 * ULP)


def plan_tiles(shape: Shape, fold: bool) -> Case:
    def make(draw: Draw) -> Arguments:
        tiles = draw.tiles()
        for tensor in (tiles.table, tiles.temperature, tiles.spans, tiles.of_slot):
            tensor.fill_(-5)
        return draw.slots(), tiles, shape.canvas, fold

    def least(company: Company, size: int) -> Work:
        return Work(len(company.seats) * (20 * 4 + 8) + company.tiles * 36 + 32)

    writes = {
        "tiles.table": lambda arguments: arguments[1].table[:, :6],
        "tiles.temperature": lambda arguments: arguments[1].temperature,
        "tiles.spans": lambda arguments: arguments[1].spans[:, :2],
        "tiles.of_slot": lambda arguments: arguments[1].of_slot,
    }
    name = "plan_tiles folded" if fold else "plan_tiles"
    return Case(name, "plan_tiles", shape, make, least, {}, {}, writes, tolerance=1e-6)


def advance(shape: Shape) -> Case:
    def make(draw: Draw) -> Arguments:
        slots, tiles, rows = draw.slots(), draw.tiles(), draw.company.canvas_room * draw.company.tile_rows
        entropy = draw.uniform(rows).square() * 0.02  # so that the bound is crossed inside a canvas
        return slots, tiles, entropy, draw.tokens(rows), draw.tokens(rows), draw.tokens(rows)

    def least(company: Company, size: int) -> Work:
        rows = company.canvases * company.length
        return Work(rows * 4 * (4 + 2 + 3 + 5) + len(company.seats) * (20 + 8 + 16) * 4)

    names = ("numbers", "text", "canvas", "argmax", "first_accepted", "frames")
    writes = {f"slots.{name}": _of_slots(name) for name in names} | {
        "slots.told": lambda arguments: arguments[0].told[
            :, [column for column in Told if column != Told.MEAN_ENTROPY]
        ],
        "slots.mean_entropy": lambda arguments: arguments[0].told[:, Told.MEAN_ENTROPY].view(torch.float32),
    }
    inputs = dict.fromkeys(range(2, 6), CANVAS_ROWS)
    # the mean of a canvas's entropies in another order; all else is whole numbers
    return Case("advance", "advance", shape, make, least, inputs, {}, writes, tolerance=1e-6)


def column_tiles(shape: Shape) -> int:
    """W: column tiles of the head."""
    return -(-shape.vocab // HEAD_COLUMNS)


def believed(draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What the head and decide say of made-up scores: e, totals, moments, maxima, argmaxima, factors."""
    columns, rows = column_tiles(draw.shape), draw.company.canvas_room * draw.company.tile_rows
    vocab = draw.shape.vocab
    if draw.meta:
        e, small = draw.normal(rows, vocab), draw.normal(rows, columns, dtype=torch.float32)
        return e, small, small, small, torch.empty_like(small, dtype=torch.int32), small
    z = draw.normal(rows, vocab, scale=4.0, dtype=torch.float32)
    z.masked_fill_(draw.uniform(rows, vocab) < 0.02, float("-inf"))
    padded = torch.full((rows, columns * HEAD_COLUMNS), float("-inf"), device=z.device)
    padded[:, :vocab] = z
    tiled = padded.unflatten(1, (columns, HEAD_COLUMNS))
    maxima, at = tiled.max(-1)
    first = HEAD_COLUMNS * torch.arange(columns, device=z.device)
    shifted = tiled - maxima[..., None]
    e = shifted.exp()
    totals, moments = e.sum(-1), (e * shifted.clamp_min(-1e4)).sum(-1)
    scales = (maxima - maxima.amax(1, keepdim=True)).exp()
    factors = scales / (totals * scales).sum(1, keepdim=True)
    stored = e.flatten(1)[:, :vocab].to(draw.dtype).contiguous()
    return stored, totals, moments, maxima, (at + first).int(), factors


def _of_slots(name: str) -> Callable[[Arguments], Tensor]:
    return lambda arguments: getattr(arguments[0], name)
