"""What the device decides between passes: which tiles the next one computes, and what a step did to each slot.

Twins of plan_tiles and advance. The rules are those of engine/scheduler.py, sampler.py and sequence.py, which hold for
a CPU; here they are written for numbers in a table, so that the next pass can start before the host knows of this one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dgbatch.engine.kernels.reference.philox import LOW, philox, token_of
from dgbatch.engine.kernels.tables import Frame, Number, Of, Real, Slots, Tiles, Told


def plan_tiles(slots: Slots, tiles: Tiles, length: int, fold: bool) -> None:
    """Fill `tiles` with the next pass.

    length: C, the rows of a canvas and of a full chunk; fold: whether a canvas may start in the pass that encodes what
    comes before it
    A slot at work wants the chunks of its text that are in no page yet, as far as pages are granted, and its canvas
    where no chunk remains after these. Slots are served in order until the tiles are used up: a slot's chunks come
    before its canvas. Chunks cut the prompt at multiples of C, and each settled canvas is one.
    """
    rows = slots.canvas.shape[1]
    numbers = slots.numbers
    running, prompt = numbers[:, Number.RUNNING] != 0, numbers[:, Number.PROMPT]
    of_prompt = (prompt + length - 1) // length
    of_text = of_prompt + (numbers[:, Number.TEXT] - prompt) // length
    done = numbers[:, Number.CHUNKS]
    chunks = (torch.minimum(of_text, numbers[:, Number.GRANTED]) - done).clamp_min(0) * running
    canvas = running & (done + chunks >= of_text)
    if not fold:
        canvas &= chunks == 0
    left = (len(tiles.table) - (chunks + canvas).cumsum(0) + chunks + canvas).clamp_min(0)
    canvas &= chunks < left
    chunks = torch.minimum(chunks, left).int()
    begins = chunks.cumsum(0) - chunks
    at, end = int(chunks.sum()), int(chunks.sum() + canvas.sum())

    tiles.table.zero_()
    tiles.temperature.fill_(1.0)
    tiles.spans.zero_()
    edges = [[0, end * rows], [at * rows, end * rows]]
    tiles.spans[:, :2] = torch.tensor(edges, device=slots.device)
    tiles.of_slot[:, 0] = torch.where(canvas, canvas.cumsum(0) - 1, -1)
    tiles.of_slot[:, 1] = chunks

    slot = torch.arange(len(numbers), device=slots.device).repeat_interleave(chunks)
    number = done[slot] + torch.arange(at, device=slots.device) - begins[slot]
    before = prompt[slot]
    whole = number >= of_prompt[slot]
    start = torch.where(whole, before + (number - of_prompt[slot]) * length, number * length)
    own = torch.where(whole, length, (before - start).clamp_max(length))
    tiles.table[:at] = _with(tiles.table[:at], {Of.SLOT: slot, Of.START: start, Of.ROWS: own, Of.CHUNK: number})

    slot = canvas.nonzero().squeeze(1)
    step = numbers[slot, Number.STEP]
    columns: dict[int, Tensor | int] = {
        Of.SLOT: slot,
        Of.CANVAS: 1,
        Of.START: numbers[slot, Number.TEXT],
        Of.ROWS: length,
        Of.CHUNK: of_text[slot],
        Of.FIRST: step == 0,
    }
    tiles.table[at:end] = _with(tiles.table[at:end], columns)
    most, low = numbers[slot, Number.MAX_STEPS].float(), slots.reals[slot, Real.TEMPERATURE_END]
    tiles.temperature[at:end] = low + (slots.reals[slot, Real.TEMPERATURE_START] - low) * (most - step) / most


def advance(slots: Slots, tiles: Tiles, entropy: Tensor, argmax: Tensor, drawn: Tensor, fresh: Tensor) -> None:
    """Move every slot on by what this pass did to it, and tell the host.

    entropy (N,) float32; argmax, drawn, fresh (N,) int32: what `decide` returned
    Encoded chunks count as such. Of a canvas the surest positions are accepted: those before which, in the order of
    (entropy, position), entropies sum to at most the bound. It is settled when its steps are used up, or the argmax
    stood still for `stability` steps and the mean entropy is below `confidence`. A settled canvas becomes text; a new
    one of fresh noise follows, unless the text ends by one of end_ids or has as many tokens as it may have.
    """
    rows, vocab = slots.canvas.shape[1], slots.allowed.shape[1]
    numbers, told = slots.numbers, slots.told
    first, end = (edge // rows for edge in tiles.canvases.tolist())
    numbers[:, Number.CHUNKS] += tiles.of_slot[:, 1]
    encoded = torch.zeros(len(numbers), dtype=torch.int32, device=slots.device)
    numbers[:, Number.ENCODED] += encoded.index_add_(0, tiles.table[:first, Of.SLOT], tiles.table[:first, Of.ROWS])
    told.zero_()
    told[:, Told.ENCODED] = numbers[:, Number.ENCODED]
    if first == end:
        return

    table = tiles.table[first:end]
    slot, length = table[:, Of.SLOT].long(), int(table[0, Of.ROWS])
    entropy, argmax, drawn, fresh = (
        of_rows[: len(slot) * rows].view(-1, rows)[:, :length] for of_rows in (entropy, argmax, drawn, fresh)
    )
    own, real = numbers[slot], slots.reals[slot]
    accepted = _accept(entropy, real[:, Real.ENTROPY_BOUND])
    unchanged = (argmax == slots.argmax[slot, :length]).all(1)
    was = slots.first_accepted[slot, :length]
    first_accepted = torch.where(accepted & (was < 0), drawn, was)
    canvas = torch.where(accepted, drawn, fresh)
    mean = entropy.mean(1)
    step, still = own[:, Number.STEP] + 1, (own[:, Number.STILL] + 1) * unchanged
    quiet = (still >= own[:, Number.STABILITY]) & (mean < real[:, Real.CONFIDENCE])
    settled = quiet | (step >= own[:, Number.MAX_STEPS])

    room = own[:, Number.MAX_NEW] - own[:, Number.WRITTEN]
    position = torch.arange(length, dtype=torch.int32, device=slots.device)
    ended = (torch.isin(argmax, slots.end_ids) & (position < room[:, None])).any(1)
    finish = torch.where(ended, 1, 2 * (room <= length)) * settled
    told[slot] = _with(
        told[slot],
        {
            Told.DENOISED: 1,
            Told.SETTLED: settled,
            Told.FINISH: finish,
            Told.CANVAS: own[:, Number.CANVAS],
            Told.STEP: step,
            Told.UNCHANGED: unchanged,
            Told.MEAN_ENTROPY: mean.view(torch.int32),
        },
    )
    frame = {
        Frame.TOKENS: canvas,
        Frame.ARGMAX: argmax,
        Frame.ACCEPTED: accepted.int(),
        Frame.ENTROPY: entropy.contiguous().view(torch.int32),
        Frame.FIRST_ACCEPTED: first_accepted,
    }
    slots.frames[slot, :, :length] = torch.stack([frame[row] for row in Frame], 1)

    goes_on = settled & (finish == 0)
    number = own[:, Number.CANVAS] + goes_on
    begun = _noise_of_new_canvases(own, number, length, vocab)
    anew = goes_on[:, None]
    slots.canvas[slot, :length] = torch.where(anew, begun, canvas)
    slots.argmax[slot, :length] = torch.where(anew, -1, argmax)
    slots.first_accepted[slot, :length] = torch.where(anew, -1, first_accepted)
    at = own[settled, Number.TEXT, None] + position
    slots.text[slot[settled, None], at.long()] = argmax[settled]
    numbers[slot] = _with(
        own,
        {
            Number.RUNNING: finish == 0,
            Number.TEXT: own[:, Number.TEXT] + length * goes_on,
            Number.CANVAS: number,
            Number.STEP: step * ~goes_on,
            Number.STILL: still * ~goes_on,
            Number.WRITTEN: own[:, Number.WRITTEN] + room.clamp_max(length) * settled,
        },
    )


def _accept(entropy: Tensor, bound: Tensor) -> Tensor:
    """As sampler.accept. entropy: (n, C); bound: (n,)"""
    ordered, order = entropy.sort(dim=-1, stable=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before <= bound[:, None])


def _noise_of_new_canvases(numbers: Tensor, canvas: Tensor, length: int, vocab: int) -> Tensor:
    """(n, C) int32: the tokens of step 0. numbers: (n, 16), of which the keys are read; canvas: (n,)"""
    words = numbers.long()[:, :, None] & LOW
    position = torch.arange(length, device=numbers.device)
    zero = torch.zeros_like(position)
    counter = (zero, position, zero, canvas.long()[:, None])
    return token_of(philox(counter, (words[:, Number.KEY_LOW], words[:, Number.KEY_HIGH]))[0], vocab).int()


def _with(table: Tensor, columns: Mapping[int, Tensor | int]) -> Tensor:
    """`table` with these columns instead of its own."""
    table = table.clone()
    for column, value in columns.items():
        table[:, column] = value
    return table
