"""What the canvases of a prompt looked like, for the few prompts that asked to be filmed.

A frame is what a step left, read once the step is done, so it does not matter how it was computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

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
        if wants_noise(one):
            begin(one, canvases.tokens[one.slot].tolist())


def shoot(canvases: Canvases, sequences: Iterable[Sequence]) -> None:
    """One frame more of those that are filmed, after a step."""
    for one in sequences:
        if wants_frame(one):
            accepted, nats = canvases.accepted[one.slot].long(), in_steps(canvases.entropy[one.slot])
            # one transfer for all four
            add(one, torch.stack([canvases.tokens[one.slot], accepted, canvases.argmax[one.slot], nats]).tolist())


def wants_noise(one: Sequence) -> bool:
    """Whether the canvas that it begins is filmed."""
    return one.prompt.film and len(one.noise) == one.canvas < CANVASES


def begin(one: Sequence, noise: Iterable[int]) -> None:
    one.noise.append(tuple(noise))
    one.frames.append([])


def wants_frame(one: Sequence) -> bool:
    """Whether the canvas that had a step is filmed. Of more than FRAMES the canvas at work is given up."""
    if not one.prompt.film or len(one.noise) != one.canvas + 1:
        return False
    if sum(map(len, one.frames)) < FRAMES:
        return True
    del one.noise[-1], one.frames[-1]
    return False


def add(one: Sequence, told: Iterable[list[int]]) -> None:
    """told: tokens, whether accepted, argmax and entropy (`in_steps`) of each position."""
    tokens, sure, argmax, nats = map(tuple, told)
    one.frames[-1].append(Frame(tokens, tuple(map(bool, sure)), argmax, nats))


def in_steps(entropy: Tensor) -> Tensor:
    """Nats as a frame keeps them, int64."""
    return (entropy * NATS).round().clamp_min(0).long()


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
