"""What a pass did to each slot: one program a slot, which nobody else writes.

A canvas is accepted by counting: the sum of the entropies that come before a position's own, over all pairs. That is
256 x 256 comparisons and no sort. Bound by latency. Not yet measured on a GPU.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from dgbatch.engine.kernels.philox import philox, token_of
from dgbatch.engine.kernels.tables import Frame, Number, Of, Real, Slots, Tiles, Told

COMPARED = 32  # positions that all positions are compared with at once

_RUNNING, _TEXT, _ENCODED, _CHUNKS = (
    tl.constexpr(int(n)) for n in (Number.RUNNING, Number.TEXT, Number.ENCODED, Number.CHUNKS)
)
_CANVAS, _STEP, _STILL, _WRITTEN = (
    tl.constexpr(int(n)) for n in (Number.CANVAS, Number.STEP, Number.STILL, Number.WRITTEN)
)
_KEY_LOW, _KEY_HIGH = tl.constexpr(int(Number.KEY_LOW)), tl.constexpr(int(Number.KEY_HIGH))
_MAX_STEPS, _STABILITY, _MAX_NEW = (tl.constexpr(int(n)) for n in (Number.MAX_STEPS, Number.STABILITY, Number.MAX_NEW))
_BOUND, _CONFIDENCE = tl.constexpr(int(Real.ENTROPY_BOUND)), tl.constexpr(int(Real.CONFIDENCE))
_OF_SLOT, _OF_ROWS = tl.constexpr(int(Of.SLOT)), tl.constexpr(int(Of.ROWS))
_DENOISED, _SETTLED, _FINISH, _OLD_CANVAS, _OLD_STEP, _UNCHANGED, _MEAN, _ENCODED_NOW = (
    tl.constexpr(int(n)) for n in Told
)
_TOKENS, _ARGMAX, _ACCEPTED, _ENTROPY, _FIRST = (tl.constexpr(int(n)) for n in Frame)


def advance(slots: Slots, tiles: Tiles, entropy: Tensor, argmax: Tensor, drawn: Tensor, fresh: Tensor) -> None:
    """As reference.turns.advance. entropy: (N,) float32; argmax, drawn, fresh: (N,) int32."""
    (count, rows), (capacity, columns) = slots.canvas.shape, tiles.table.shape
    _advance[(count,)](
        slots.numbers, slots.reals, slots.text, slots.canvas, slots.argmax, slots.first_accepted, slots.end_ids,
        slots.told, slots.frames, tiles.table, tiles.canvases, tiles.of_slot, entropy, argmax, drawn, fresh,
        slots.allowed.shape[1], slots.text.shape[1], len(slots.end_ids),
        TILE_ROWS=rows, NUMBERS=slots.numbers.shape[1], REALS=slots.reals.shape[1], TOLD=slots.told.shape[1],
        FRAMES=slots.frames.shape[1], OF=columns, BLOCK=triton.next_power_of_2(rows), COMPARED=COMPARED,
        BLOCK_TILES=max(32, triton.next_power_of_2(capacity)), num_warps=8, num_stages=1,
    )  # fmt: skip


@triton.jit
def _advance(
    numbers, reals, text, canvas, argmax, first_accepted, end_ids,
    told, frames, table, canvases, of_slot, entropy, new_argmax, drawn, fresh,
    vocab, longest, ends,
    TILE_ROWS: tl.constexpr, NUMBERS: tl.constexpr, REALS: tl.constexpr, TOLD: tl.constexpr, FRAMES: tl.constexpr,
    OF: tl.constexpr, BLOCK: tl.constexpr, COMPARED: tl.constexpr, BLOCK_TILES: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0)
    mine, limits, said = numbers + slot * NUMBERS, reals + slot * REALS, told + slot * TOLD
    place, chunks = tl.load(of_slot + slot * 2), tl.load(of_slot + slot * 2 + 1)
    first = tl.load(canvases) // TILE_ROWS  # as many tiles encode
    tile = tl.arange(0, BLOCK_TILES)
    whose = tl.load(table + tile * OF + _OF_SLOT, mask=tile < first, other=-1)
    rows = tl.load(table + tile * OF + _OF_ROWS, mask=tile < first, other=0)
    encoded = tl.load(mine + _ENCODED) + tl.sum(tl.where(whose == slot, rows, 0), 0)
    chunks += tl.load(mine + _CHUNKS)

    # Of a slot without a canvas in this pass no position is real, and nothing below is kept.
    work = place >= 0
    length = tl.load(table + (first + place) * OF + _OF_ROWS, mask=work, other=0)
    i = tl.arange(0, BLOCK)
    real, of_slot_at, of_pass_at = i < length, slot * TILE_ROWS + i, place * TILE_ROWS + i
    nats = tl.load(entropy + of_pass_at, mask=real, other=0.0)
    now = tl.load(new_argmax + of_pass_at, mask=real, other=0)
    draw = tl.load(drawn + of_pass_at, mask=real, other=0)
    noise = tl.load(fresh + of_pass_at, mask=real, other=0)
    was = tl.load(argmax + of_slot_at, mask=real, other=0)
    was_first = tl.load(first_accepted + of_slot_at, mask=real, other=0)
    number, step = tl.load(mine + _CANVAS), tl.load(mine + _STEP) + 1
    length_before, written = tl.load(mine + _TEXT), tl.load(mine + _WRITTEN)
    room = tl.load(mine + _MAX_NEW) - written

    before = tl.zeros((BLOCK,), tl.float32)
    for begin in range(0, BLOCK, COMPARED):
        j = begin + tl.arange(0, COMPARED)
        other = tl.load(entropy + place * TILE_ROWS + j, mask=j < length, other=0.0)
        surer = (other[None, :] < nats[:, None]) | ((other[None, :] == nats[:, None]) & (j[None, :] < i[:, None]))
        before += tl.sum(tl.where(surer, other[None, :], 0.0), 1)  # what is not real adds 0
    accepted = real & (before <= tl.load(limits + _BOUND))
    sure_first = tl.where(accepted & (was_first < 0), draw, was_first)
    tokens = tl.where(accepted, draw, noise)

    unchanged = work & (tl.sum((real & (now != was)).to(tl.int32), 0) == 0)
    still = tl.where(unchanged, tl.load(mine + _STILL) + 1, 0)
    mean = tl.div_rn(tl.sum(nats, 0), tl.maximum(length, 1).to(tl.float32))  # `/` may be off by its last bits
    quiet = (still >= tl.load(mine + _STABILITY)) & (mean < tl.load(limits + _CONFIDENCE))
    settled = work & (quiet | (step >= tl.load(mine + _MAX_STEPS)))
    an_end = i < 0
    for end in range(ends):
        an_end = an_end | (now == tl.load(end_ids + end))
    ended = tl.sum((real & an_end & (i < room)).to(tl.int32), 0) > 0
    finish = tl.where(settled, tl.where(ended, 1, tl.where(room <= length, 2, 0)), 0)
    goes_on = settled & (finish == 0)
    words = philox(i, 0, number + 1, tl.load(mine + _KEY_LOW), tl.load(mine + _KEY_HIGH))
    begun = token_of(words[0], vocab)
    tl.debug_barrier()  # one warp must not write what another has yet to read

    frame = frames + slot * FRAMES * TILE_ROWS + i
    tl.store(frame + _TOKENS * TILE_ROWS, tokens, mask=real)
    tl.store(frame + _ARGMAX * TILE_ROWS, now, mask=real)
    tl.store(frame + _ACCEPTED * TILE_ROWS, accepted.to(tl.int32), mask=real)
    tl.store(frame + _ENTROPY * TILE_ROWS, nats.to(tl.int32, bitcast=True), mask=real)
    tl.store(frame + _FIRST * TILE_ROWS, sure_first, mask=real)
    tl.store(canvas + of_slot_at, tl.where(goes_on, begun, tokens), mask=real)
    tl.store(argmax + of_slot_at, tl.where(goes_on, -1, now), mask=real)
    tl.store(first_accepted + of_slot_at, tl.where(goes_on, -1, sure_first), mask=real)
    at = length_before + i
    tl.store(text + slot.to(tl.int64) * longest + at, now, mask=real & settled & (at < longest))

    tl.store(said + _DENOISED, work.to(tl.int32))
    tl.store(said + _SETTLED, settled.to(tl.int32))
    tl.store(said + _FINISH, finish)
    tl.store(said + _OLD_CANVAS, tl.where(work, number, 0))
    tl.store(said + _OLD_STEP, tl.where(work, step, 0))
    tl.store(said + _UNCHANGED, unchanged.to(tl.int32))
    tl.store(said + _MEAN, tl.where(work, mean, 0.0).to(tl.int32, bitcast=True))
    tl.store(said + _ENCODED_NOW, encoded)

    tl.store(mine + _ENCODED, encoded)
    tl.store(mine + _CHUNKS, chunks)
    tl.store(mine + _RUNNING, (finish == 0).to(tl.int32), mask=work)
    tl.store(mine + _TEXT, tl.where(goes_on, length_before + length, length_before), mask=work)
    tl.store(mine + _CANVAS, tl.where(goes_on, number + 1, number), mask=work)
    tl.store(mine + _STEP, tl.where(goes_on, 0, step), mask=work)
    tl.store(mine + _STILL, tl.where(goes_on, 0, still), mask=work)
    tl.store(mine + _WRITTEN, tl.where(settled, written + tl.minimum(room, length), written), mask=work)
