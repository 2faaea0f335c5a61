"""Cases of what happens to rows between the embedding and the head: inputs, norms, products, experts, attention."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dgbatch.bench.kernels.case import CHOICES, EPS, LISTS, POOL, ROWS, SPAN, ULP, WHOLE, Arguments, Case, Work
from dgbatch.bench.kernels.draw import Draw
from dgbatch.bench.kernels.seats import Company
from dgbatch.engine.kernels.tables import Of
from dgbatch.roofline import Layer, Shape


def cases(shape: Shape) -> Iterator[Case]:
    kinds = {layer.sliding: layer for layer in shape.layers}
    yield from (embed_rows(shape), condition(shape))
    for layer in kinds.values():
        width = (2 if layer.sliding else 1) * layer.kv_heads + shape.heads
        yield linear(shape, f"qkv {_kind(layer)}", width * layer.head_dim, shape.hidden)
        yield place_heads(shape, layer)
        yield attend(shape, layer)
        yield linear(shape, f"attention out {_kind(layer)}", shape.hidden, shape.heads * layer.head_dim)
    yield from (residual_norms(shape), gated(shape), linear(shape, "MLP down", shape.hidden, shape.dense_width))
    yield from (choose_experts(shape), group_rows(shape), experts_up(shape), experts_down(shape), combine(shape))


def embed_scale(shape: Shape) -> float:
    """sqrt(hidden) rounded to bfloat16, as the model has it: 53.0 for the 26B one."""
    return torch.tensor(shape.hidden**0.5, dtype=torch.bfloat16).item()


def embed_rows(shape: Shape) -> Case:
    def make(draw: Draw) -> Arguments:
        embedding = draw.normal(shape.vocab, shape.hidden, scale=0.02)
        return draw.slots(), draw.tiles(), embedding, embed_scale(shape), draw.norm(shape.hidden), EPS

    def least(company: Company, size: int) -> Work:
        believed = company.canvases * company.length
        return Work((3 * company.tokens + believed) * shape.hidden * size + company.tokens * 8)

    # The norm of the soft embeddings rounds once; a float32 sum in another order may tip it.
    outputs = {"embedded": ROWS, "conditioned": ROWS, "positions": ROWS}
    return Case("embed_rows", "embed_rows", shape, make, least, {}, outputs)


def condition(shape: Shape) -> Case:
    def make(draw: Draw) -> Arguments:
        embedded, branch = draw.rows(shape.hidden), draw.rows(shape.hidden)
        return embedded, branch, draw.tiles(), draw.norm(shape.hidden), EPS

    def least(company: Company, size: int) -> Work:
        return Work((3 * company.tokens + company.canvases * company.length) * shape.hidden * size)

    inputs = {0: ROWS, 1: ROWS}
    return Case("condition", "condition", shape, make, least, inputs, {"x": ROWS, "h": ROWS}, tolerance=2 * ULP)


def place_heads(shape: Shape, layer: Layer) -> Case:
    parts = shape.heads + (2 if layer.sliding else 1) * layer.kv_heads

    def make(draw: Draw) -> Arguments:
        angle = draw.uniform(draw.company.rows, layer.head_dim // 2) * 2 * torch.pi
        weights = draw.norm(layer.head_dim), draw.norm(layer.head_dim)
        turns = angle.cos().to(draw.dtype), angle.sin().to(draw.dtype)
        qkv = draw.rows(parts * layer.head_dim)
        pool = draw.pool(layer)
        return (qkv, *turns, *weights, draw.slots(), draw.tiles(), pool, layer.sliding, shape.heads, EPS)

    def least(company: Company, size: int) -> Work:
        written = shape.heads + 2 * layer.kv_heads
        return Work(company.tokens * layer.head_dim * (parts + 1 + written) * size)

    name = f"place_heads {_kind(layer)}"
    inputs = {0: ROWS, 1: ROWS, 2: ROWS, 7: POOL}
    writes = {"pool": lambda arguments: arguments[7]}
    # the product with the norm's weight rounds, then each of two products with cos and sin
    return Case(name, "place_heads", shape, make, least, inputs, {"q": ROWS}, writes, tolerance=2 * ULP)


def attend(shape: Shape, layer: Layer) -> Case:
    window = shape.window

    def make(draw: Draw) -> Arguments:
        q, tiles = draw.rows(shape.heads, layer.head_dim), draw.tiles()
        return q, draw.slots(), tiles, draw.pool(layer), layer.sliding, window, tiles.everyone

    def least(company: Company, size: int) -> Work:
        seen = [(tile[Of.ROWS], company.seen(tile, window if layer.sliding else None)) for tile in company.table]
        read = 2 * layer.kv_heads * layer.head_dim * sum(keys for _, keys in seen)
        around = 2 * company.tokens * shape.heads * layer.head_dim
        return Work(
            (read + around) * size,
            4 * shape.heads * layer.head_dim * sum(rows * keys for rows, keys in seen),
        )

    inputs = {0: ROWS, 3: POOL, 6: SPAN}
    # probabilities are rounded before they meet the values, by each side at another maximum
    return Case(f"attend {_kind(layer)}", "attend", shape, make, least, inputs, {"attended": ROWS}, tolerance=2 * ULP)


def linear(shape: Shape, what: str, out: int, inner: int) -> Case:
    def make(draw: Draw) -> Arguments:
        return draw.rows(inner), draw.weight(out, inner), draw.tiles().everyone

    def least(company: Company, size: int) -> Work:
        rows = company.tokens
        return Work((out * inner + rows * (inner + out)) * size, 2.0 * rows * out * inner)

    inputs = {0: ROWS, 2: SPAN}
    return Case(f"linear {what}", "linear", shape, make, least, inputs, {"y": ROWS})


def gated(shape: Shape) -> Case:
    width, hidden = shape.dense_width, shape.hidden

    def make(draw: Draw) -> Arguments:
        return draw.rows(hidden), draw.weight(2 * width, hidden), draw.tiles().everyone

    def least(company: Company, size: int) -> Work:
        rows = company.tokens
        return Work((2 * width * hidden + rows * (hidden + width)) * size, 4.0 * rows * width * hidden)

    inputs = {0: ROWS, 2: SPAN}
    # gate and up round, each their own way, then their product
    return Case("gated", "gated", shape, make, least, inputs, {"inner": ROWS}, tolerance=3 * ULP)


def residual_norms(shape: Shape) -> Case:
    def make(draw: Draw) -> Arguments:
        hidden = shape.hidden
        norms = draw.norm(hidden), draw.norm(hidden), draw.norm(hidden)
        return draw.rows(hidden), draw.rows(hidden), *norms, EPS, draw.tiles().everyone

    def least(company: Company, size: int) -> Work:
        return Work(6.0 * company.tokens * shape.hidden * size)

    outputs = {"x": ROWS, "dense_in": ROWS, "experts_in": ROWS, "unit": ROWS}
    inputs = {0: ROWS, 1: ROWS, 6: SPAN}
    return Case("residual_norms", "residual_norms", shape, make, least, inputs, outputs, tolerance=2 * ULP)


def choose_experts(shape: Shape) -> Case:
    def make(draw: Draw) -> Arguments:
        unit, proj = draw.rows(shape.hidden), draw.normal(shape.experts, shape.hidden)
        scales = draw.norm(shape.hidden), draw.norm(shape.experts)
        return unit, proj, *scales, shape.chosen, draw.tiles().everyone

    def least(company: Company, size: int) -> Work:
        read = (company.tokens + shape.experts) * shape.hidden * size
        return Work(read + company.tokens * shape.chosen * 8, 2.0 * company.tokens * shape.experts * shape.hidden)

    # Scores round to bfloat16 before the softmax: one of 4 that tips moves a probability by 4 * 2^-8.
    outputs = {"weights": ROWS, "index": ROWS}
    inputs = {0: ROWS, 5: SPAN}
    return Case("choose_experts", "choose_experts", shape, make, least, inputs, outputs, tolerance=6 * ULP)


def group_rows(shape: Shape) -> Case:
    def make(draw: Draw) -> Arguments:
        return draw.chosen(), shape.experts, draw.tiles().everyone

    def least(company: Company, size: int) -> Work:
        return Work(company.tokens * shape.chosen * 8 + shape.experts * 4)

    inputs = {0: ROWS, 2: SPAN}
    return Case(
        "group_rows", "group_rows", shape, make, least, inputs, {"counts": WHOLE, "places": LISTS}, tolerance=0.0
    )


def experts_up(shape: Shape) -> Case:
    hidden, width = shape.hidden, shape.expert_width

    def make(draw: Draw) -> Arguments:
        gate_up = draw.weight(shape.experts, 2 * width, hidden)
        return draw.rows(hidden), gate_up, *draw.grouped(draw.chosen()), shape.chosen

    def least(company: Company, size: int) -> Work:
        rows = company.tokens
        weights = shape.expert_coverage(rows) * shape.experts * 2 * width * hidden
        moved = weights + rows * (hidden + shape.chosen * width)
        return Work(moved * size, 4.0 * rows * shape.chosen * width * hidden)

    inputs = {0: ROWS, 2: LISTS, 3: LISTS}
    return Case("experts_up", "experts_up", shape, make, least, inputs, {"inner": CHOICES}, tolerance=3 * ULP)


def experts_down(shape: Shape) -> Case:
    hidden, width = shape.hidden, shape.expert_width

    def make(draw: Draw) -> Arguments:
        down = draw.weight(shape.experts, hidden, width)
        return draw.rows(width, times=shape.chosen), down, *draw.grouped(draw.chosen())

    def least(company: Company, size: int) -> Work:
        rows = company.tokens
        weights = shape.expert_coverage(rows) * shape.experts * width * hidden
        moved = weights + rows * shape.chosen * (hidden + width)
        return Work(moved * size, 2.0 * rows * shape.chosen * width * hidden)

    inputs = {0: CHOICES, 2: LISTS, 3: LISTS}
    return Case("experts_down", "experts_down", shape, make, least, inputs, {"outer": CHOICES})


def combine(shape: Shape) -> Case:
    def make(draw: Draw) -> Arguments:
        hidden, tiles = shape.hidden, draw.tiles()
        x, dense, outer = draw.rows(hidden), draw.rows(hidden), draw.rows(hidden, times=shape.chosen)
        weights = draw.uniform(draw.company.rows, shape.chosen) / shape.chosen
        norms = draw.norm(hidden), draw.norm(hidden), draw.norm(hidden)
        scalars = draw.uniform(2)
        return x, dense, outer, weights, *norms, scalars, tiles, draw.norm(hidden), EPS, tiles.everyone

    def least(company: Company, size: int) -> Work:
        rows = company.tokens
        return Work(rows * ((4 + shape.chosen) * shape.hidden * size + shape.chosen * 4))

    inputs = {0: ROWS, 1: ROWS, 2: CHOICES, 3: ROWS, 11: SPAN}
    # five values in a row are rounded to bfloat16 on the way to h
    return Case("combine", "combine", shape, make, least, inputs, {"x": ROWS, "h": ROWS}, tolerance=4 * ULP)


def _kind(layer: Layer) -> str:
    return "sliding" if layer.sliding else "full"
