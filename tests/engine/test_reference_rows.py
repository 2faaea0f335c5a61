"""Twins of the row kernels against the eager model, tile by tile.

Tolerance: 2e-6 for float32 sums of a few dozen terms that another order of additions gave; bfloat16 is held to the
eager model bit by bit, as the rounding is what these tests are about.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dgbatch.engine import kernels
from dgbatch.engine.kernels import operations
from dgbatch.engine.kernels.tables import Of
from dgbatch.engine.model.transformer import Layer
from tests.engine.at_work import canvas, chunk, make_slots, make_tiles, random, span
from tests.engine.tiny import CANVAS, VOCABULARY, tiny_model

R, H, EPS = 64, 32, 1e-6
TYPES = [torch.float32, torch.bfloat16]
# A ragged chunk of a prompt, a whole one, a canvas that had steps, one that had none; then a tile with no work.
LINES = (chunk(2, 3, 5, 1), chunk(0, 16, CANVAS, 2), canvas(1, 21, CANVAS, 3), canvas(3, 7, CANVAS, 1, first=True))


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():  # with gradients the eager model takes other ways, which round otherwise
        yield


def at(tile: int, rows: int = CANVAS) -> slice:
    return slice(tile * R, tile * R + rows)


def same(ours: Tensor, theirs: Tensor) -> None:
    exact = theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=0 if exact else 2e-6, atol=0 if exact else 2e-6)


def embed(dtype: torch.dtype):  # type: ignore[no-untyped-def]
    model = tiny_model().to(dtype)
    slots = make_slots(4, R, len(VOCABULARY), H, dtype)
    tiles = make_tiles(R, *LINES, idle=1)
    own = model.self_conditioning
    return (
        model,
        slots,
        tiles,
        operations.embed_rows(slots, tiles, model.embedding, float(model.embed_scale), own.norm, EPS),
    )


@pytest.mark.parametrize("dtype", TYPES)
def test_rows_of_clean_text_are_its_tokens_from_their_start_on(dtype: torch.dtype) -> None:
    model, slots, _, (embedded, conditioned, positions) = embed(dtype)
    same(embedded[at(0, 5)], model.embed_context(slots.text[2, 3:8].long()))
    same(embedded[at(1)], model.embed_context(slots.text[0, 16:24].long()))
    assert not conditioned[: 2 * R].any()
    assert positions[at(1)].tolist() == [*range(16, 24)]


@pytest.mark.parametrize("dtype", TYPES)
def test_rows_of_a_canvas_are_its_tokens_and_what_was_believed_of_them(dtype: torch.dtype) -> None:
    model, slots, _, (embedded, conditioned, positions) = embed(dtype)
    same(embedded[at(2)], model.embed_context(slots.canvas[1, :CANVAS].long()))
    same(conditioned[at(2)], kernels.rms_norm(slots.soft[1, :CANVAS], model.self_conditioning.norm, EPS))
    assert not conditioned[at(3, R)].any()  # nothing was believed before a first step
    assert positions[at(2)].tolist() == [*range(21, 29)]


def test_padding_is_one_token_after_the_other_at_the_start_of_its_tile() -> None:
    model, _, _, (embedded, conditioned, positions) = embed(torch.float32)
    padding = slice(2 * R + CANVAS, 3 * R)
    same(embedded[padding], model.embed_context(torch.arange(CANVAS, R) % len(model.embedding)))
    assert not conditioned[padding].any() and positions[padding].eq(21).all()


def test_rows_of_no_tile_at_work_have_position_zero_and_are_nothing_else() -> None:
    *_, (embedded, conditioned, positions) = embed(torch.float32)
    assert embedded[4 * R :].isnan().all() and conditioned[4 * R :].isnan().all()
    assert positions[4 * R :].eq(0).all()
    assert len(embedded) == len(conditioned) == len(positions) == 5 * R


@pytest.mark.parametrize("dtype", TYPES)
def test_what_goes_into_the_first_layer_is_that_of_the_model(dtype: torch.dtype) -> None:
    model, slots, tiles, (embedded, conditioned, _) = embed(dtype)
    branch = model.self_conditioning.mlp(conditioned)
    branch[3 * R : 4 * R] = torch.nan  # of a canvas before its first step it is not read
    weight = model.layers[0].before_attention
    x, h = operations.condition(embedded, branch, tiles, weight, EPS)
    same(x[at(0, 5)], model.embed_context(slots.text[2, 3:8].long()))
    believed, unknown = slots.soft[1, :CANVAS], slots.canvas[3, :CANVAS].long()
    torch.testing.assert_close(x[at(2)], model.embed_canvas(slots.canvas[1, :CANVAS].long(), believed))
    same(x[at(3)], model.embed_canvas(unknown, None))
    work = slice(0, 4 * R)
    same(h[work], kernels.rms_norm(x[work], weight, EPS))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("index", [0, 1])
def test_heads_are_those_of_the_attention_layer_and_find_their_pages(index: int, dtype: torch.dtype) -> None:
    model = tiny_model().to(dtype)
    attention, layer = model.layers[index].attention, model.config.layers[index]
    slots, tiles = make_slots(4, R, 8, 4), make_tiles(R, *LINES, idle=1)
    h = random(5 * R, H, dtype=dtype)
    positions = torch.arange(5 * R) % 50
    cos, sin = (part.to(dtype) for part in model.rope(positions)[layer])
    seen = []

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.extend([q, k, v])
        return q

    attention(h, cos, sin, attend)
    half = layer.head_dim // 2
    qkv = h @ torch.cat([matrix for matrix in (attention.q, attention.k, attention.v) if matrix is not None]).T
    pool = torch.full((20 + 4, 2, layer.kv_heads, CANVAS, layer.head_dim), 77.0, dtype=dtype)
    turn = (cos[:, :half], sin[:, :half], attention.q_norm, attention.k_norm)
    q = operations.place_heads(qkv, *turn, slots, tiles, pool, layer.sliding, 4, EPS)

    work = slice(0, 4 * R)
    same(q[work], seen[0][work])
    pages = [int(slots.pages[int(layer.sliding), 2, 1]), int(slots.pages[int(layer.sliding), 0, 2]), 20 + 1, 20 + 3]
    for tile, page in enumerate(pages):
        rows = LINES[tile][Of.ROWS]
        for part in (0, 1):
            same(pool[page, part, :, :rows].transpose(0, 1), seen[1 + part][at(tile, rows)])
            assert pool[page, part, :, rows:].eq(77).all()  # padding goes nowhere
    others = torch.ones(24, dtype=torch.bool).index_fill_(0, torch.tensor(pages), False)
    assert pool[others].eq(77).all()


def outer_of(layer: Layer, x: Tensor, index: Tensor) -> Tensor:
    """What each row's chosen experts make of it: (rows * chosen, H)."""
    own = layer.experts
    one = torch.ones(1, 1)
    return torch.cat(
        [
            kernels.experts(x[row : row + 1], one, expert.view(1, 1), own.gate_up, own.down)
            for row, experts in enumerate(index)
            for expert in experts
        ]
    )


@pytest.mark.parametrize("dtype", TYPES)
def test_both_halves_of_a_layer_are_that_of_the_model(dtype: torch.dtype) -> None:
    model = tiny_model().to(dtype)
    layer = model.layers[0]
    layer.prepare()
    rows = 2
    table = [chunk(0, 0, 2, 0), canvas(1, 8, 2, 1)]
    x, tiles = random(3 * rows, H, dtype=dtype), make_tiles(rows, *table, idle=1)
    x[4:] = torch.nan
    cos, sin = (part.to(dtype) for part in model.rope(torch.arange(4))[model.config.layers[0]])
    causal = torch.tensor([True, True, False, False])

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q

    theirs = layer(x[:4], cos, sin, causal, attend)
    normed = kernels.rms_norm(x, layer.before_attention, EPS)
    attended = torch.full_like(x, torch.nan)
    attended[:4] = layer.attention(normed[:4], cos, sin, attend)
    moved, dense_in, experts_in, unit = operations.residual_norms(
        x, attended, layer.after_attention, layer.before_mlp, layer.before_experts, EPS, tiles.everyone
    )
    same(moved[:4], kernels.add_rms_norm(x[:4], attended[:4], layer.after_attention, EPS))
    assert all(part[4:].isnan().all() for part in (moved, dense_in, experts_in, unit))

    weights, index = layer.router(unit[:4])
    dense, outer = torch.full_like(x, torch.nan), torch.full((6 * 2, H), torch.nan, dtype=dtype)
    dense[:4] = layer.mlp(dense_in[:4])
    outer[:8] = outer_of(layer, experts_in[:4], index)
    everything = torch.full((6, 2), torch.nan)
    everything[:4] = weights
    scalars = torch.cat([layer.encoder_scalar, layer.decoder_scalar]).float()
    norms = (layer.after_mlp, layer.after_experts, layer.after_both)
    following = model.layers[1].before_attention
    ours, h = operations.combine(
        moved, dense, outer, everything, *norms, scalars, tiles, following, EPS, tiles.everyone
    )
    same(ours[:4], theirs)
    same(h[:4], kernels.rms_norm(theirs, following, EPS))
    assert ours[4:].isnan().all() and h[4:].isnan().all()


def test_a_span_inside_the_rows_leaves_the_others_alone() -> None:
    x, weight = random(8, H), random(H)
    returned = operations.residual_norms(x, x, weight, weight, weight, EPS, span(3, 5))
    whole = operations.residual_norms(x, x, weight, weight, weight, EPS, span(0, 8))
    for part, all_rows in zip(returned, whole, strict=True):
        assert part[:3].isnan().all() and part[5:].isnan().all()
        same(part[3:5], all_rows[3:5])
