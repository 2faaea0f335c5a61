"""Which tiles the next pass has: one program, with slots on one axis and tiles on the other.

Bound by two round trips to memory. Not yet measured on a GPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dgbatch.engine.kernels.tables import Number, Of, Real, Slots, Tiles

_RUNNING, _PROMPT, _TEXT = (tl.constexpr(int(n)) for n in (Number.RUNNING, Number.PROMPT, Number.TEXT))
_CHUNKS, _GRANTED = tl.constexpr(int(Number.CHUNKS)), tl.constexpr(int(Number.GRANTED))
_STEP, _MAX_STEPS = tl.constexpr(int(Number.STEP)), tl.constexpr(int(Number.MAX_STEPS))
_HOT, _COOL = tl.constexpr(int(Real.TEMPERATURE_START)), tl.constexpr(int(Real.TEMPERATURE_END))
_SLOT, _CANVAS, _START = (tl.constexpr(int(n)) for n in (Of.SLOT, Of.CANVAS, Of.START))
_ROWS, _CHUNK, _FIRST = (tl.constexpr(int(n)) for n in (Of.ROWS, Of.CHUNK, Of.FIRST))


def plan_tiles(slots: Slots, tiles: Tiles, length: int, fold: bool) -> None:
    """As reference.turns.plan_tiles."""
    (count, numbers), (capacity, columns) = slots.numbers.shape, tiles.table.shape
    _plan_tiles[(1,)](
        slots.numbers, slots.reals, tiles.table, tiles.temperature, tiles.spans, tiles.of_slot,
        count, capacity, length,
        TILE_ROWS=slots.canvas.shape[1], NUMBERS=numbers, REALS=slots.reals.shape[1], OF=columns,
        SPAN=tiles.spans.shape[1], BLOCK_SLOTS=max(32, triton.next_power_of_2(count)),
        BLOCK_TILES=max(32, triton.next_power_of_2(capacity)), FOLD=fold, num_warps=4, num_stages=1,
    )  # fmt: skip


@triton.jit(do_not_specialize=["count", "capacity"])  # a graph for each capacity needs no program for each
def _plan_tiles(
    numbers, reals, table, temperature, spans, of_slot,
    count, capacity, length,
    TILE_ROWS: tl.constexpr, NUMBERS: tl.constexpr, REALS: tl.constexpr, OF: tl.constexpr, SPAN: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr, BLOCK_TILES: tl.constexpr, FOLD: tl.constexpr,
):  # fmt: skip
    # what each slot wants
    slot = tl.arange(0, BLOCK_SLOTS)
    there, own = slot < count, numbers + slot * NUMBERS
    running = tl.load(own + _RUNNING, mask=there, other=0) != 0
    done = tl.load(own + _CHUNKS, mask=there, other=0)
    of_text = _chunks(own, there, length)
    chunks = tl.maximum(tl.minimum(of_text, tl.load(own + _GRANTED, mask=there, other=0)) - done, 0)
    chunks = tl.where(running, chunks, 0)
    canvas = running & (done + chunks >= of_text)
    if not FOLD:
        canvas = canvas & (chunks == 0)

    # what it gets, in the order of slots, and where that lies
    wanted = chunks + canvas.to(tl.int32)
    left = tl.maximum(capacity - (tl.cumsum(wanted, 0) - wanted), 0)
    canvas = canvas & (chunks < left)
    chunks = tl.minimum(chunks, left)
    begin = tl.cumsum(chunks, 0) - chunks
    at = tl.sum(chunks, 0)
    is_canvas = canvas.to(tl.int32)
    place = tl.cumsum(is_canvas, 0) - is_canvas
    end = at + tl.sum(is_canvas, 0)
    tl.store(of_slot + slot * 2, tl.where(canvas, place, -1), mask=there)
    tl.store(of_slot + slot * 2 + 1, chunks, mask=there)
    edge = tl.arange(0, SPAN)
    tl.store(spans + edge, tl.where(edge == 1, end * TILE_ROWS, 0))
    tl.store(spans + SPAN + edge, tl.where(edge == 0, at, tl.where(edge == 1, end, 0)) * TILE_ROWS)

    # whose each tile is
    tile = tl.arange(0, BLOCK_TILES)
    encodes = (tile[:, None] >= begin[None, :]) & (tile[:, None] < (begin + chunks)[None, :])
    denoises = (tile[:, None] == (at + place)[None, :]) & canvas[None, :]
    mine = encodes | denoises
    slot_of = tl.sum(tl.where(mine, slot[None, :], 0), 1)
    number = tile + tl.sum(tl.where(encodes, (done - begin)[None, :], 0), 1)
    work, whole = tile < end, tile >= at
    own = numbers + slot_of * NUMBERS
    prompt = tl.load(own + _PROMPT, mask=work, other=0)
    step, most = tl.load(own + _STEP, mask=work, other=0), tl.load(own + _MAX_STEPS, mask=work, other=1)
    number = tl.where(whole, _chunks(own, work, length), number)
    of_prompt = (prompt + length - 1) // length  # a canvas lies where the chunk that it may become will
    start = tl.where(number < of_prompt, number * length, prompt + (number - of_prompt) * length)
    rows = tl.where(number < of_prompt, tl.minimum(prompt - start, length), length)
    hot, cool = tl.load(reals + slot_of * REALS + _HOT, mask=work), tl.load(reals + slot_of * REALS + _COOL, mask=work)
    fraction = (most - step).to(tl.float32) / most.to(tl.float32)

    line, exists = table + tile * OF, tile < capacity
    for column in tl.static_range(OF):
        value = tile * 0
        if column == _SLOT:
            value = slot_of
        if column == _CANVAS:
            value = whole.to(tl.int32)
        if column == _START:
            value = start
        if column == _ROWS:
            value = rows
        if column == _CHUNK:
            value = number
        if column == _FIRST:
            value = (whole & (step == 0)).to(tl.int32)
        tl.store(line + column, tl.where(work, value, 0), mask=exists)
    tl.store(temperature + tile, tl.where(work & whole, cool + (hot - cool) * fraction, 1.0), mask=exists)


@triton.jit
def _chunks(own, there, length):
    """Of a whole text: the prompt is cut at multiples of `length`, and each settled canvas is one."""
    prompt = tl.load(own + _PROMPT, mask=there, other=0)
    text = tl.load(own + _TEXT, mask=there, other=0)
    return (prompt + length - 1) // length + (text - prompt) // length
