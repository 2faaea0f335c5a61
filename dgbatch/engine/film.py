"""What the canvases of a prompt looked like, for the few prompts that asked to be filmed.

A frame is read from the buffers of `Canvases` after a step is done, so it does not matter how the step was computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING

import torch

from dgbatch.engine.sequence import Sequence
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.records import CanvasFilm, Film, Frame

if TYPE_CHECKING:
    from dgbatch.engine.canvases import Canvases

CANVASES = 8  # of one prompt, so that a long answer does not fill the memory
FRAMES = 512  # of one prompt: more than all steps of so many canvases, unless a job asks for very many
NATS = 32  # a nat has so many steps of entropy in a frame


def shoot_noise(canvases: Canvases, sequences: Iterable[Sequence]) -> None:
    """Begin a canvas of those that are filmed: nothing is believed about it yet."""
    for one in sequences:
        if one.prompt.film and len(one.noise) == one.canvas < CANVASES:
            one.noise.append(tuple(canvases.tokens[one.slot].tolist()))
            one.frames.append([])


def shoot(canvases: Canvases, sequences: Iterable[Sequence]) -> None:
    """One frame more of those that are filmed, after a step. Of more than FRAMES the canvas at work is given up."""
    for one in sequences:
        if one.prompt.film and len(one.noise) == one.canvas + 1:
            if sum(map(len, one.frames)) >= FRAMES:
                del one.noise[-1], one.frames[-1]
                continue
            entropy = (canvases.entropy[one.slot] * NATS).round().clamp_min(0).long()
            accepted = canvases.accepted[one.slot].long()
            # one transfer for all four
            told = torch.stack([canvases.tokens[one.slot], accepted, canvases.argmax[one.slot], entropy]).tolist()
            tokens, sure, argmax, nats = map(tuple, told)
            one.frames[-1].append(Frame(tokens, tuple(map(bool, sure)), argmax, nats))


def film_of(sequence: Sequence, tokenizer: Tokenizer) -> Film | None:
    """All that was filmed of a sequence; None where it did not ask, or its first canvas took too many steps."""
    if not sequence.noise:
        return None
    canvases = tuple(
        CanvasFilm(noise, tuple(frames)) for noise, frames in zip(sequence.noise, sequence.frames, strict=True)
    )
    ids = set(chain.from_iterable(sequence.noise))
    for frame in chain.from_iterable(sequence.frames):
        ids.update(frame.tokens, frame.argmax)
    return Film(canvases, {id: tokenizer.piece(id) for id in sorted(ids)}, frozenset(ids & tokenizer.special_ids))
