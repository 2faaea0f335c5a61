"""Our engine's step: the room engine/device_step, whole passes replayed as CUDA graphs; through the twins on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dgbatch.bench.random_26b.contender import OURS, Passes
from dgbatch.bench.random_26b.model import SEED, prefix_of
from dgbatch.engine.device_step.cuda_graph import Graphs
from dgbatch.engine.device_step.forward import Step
from dgbatch.engine.device_step.state import State, make_state
from dgbatch.engine.device_step.weights import step_weights
from dgbatch.engine.kernels.tables import Number
from dgbatch.engine.model.transformer import Transformer

NEVER = 1 << 30  # steps: neither that many nor so many without a change are ever reached
REALS = (0.8, 0.4, 0.1, 0.0)  # temperatures and entropy bound as the real model has them; never confident


class Dgbatch:
    """Every canvas has a slot and a tile of its own; a commit is a pass of as many chunks and no canvas."""

    name = OURS

    def __init__(self, model: Transformer):
        self._model = model
        self._weights = step_weights(model)
        self.state: State | None = None
        self._graphs: Graphs | None = None

    @torch.no_grad()
    def prepare(self, canvases: int, prefix: int) -> Passes:
        device = self._model.embedding.device
        self.state = state = laid_out(self._model, canvases, prefix)
        config = replace(self._model.config, max_positions=state.slots.text.shape[1])
        self._graphs = graphs = Graphs(Step(config, self._weights, state, fold=False), device)
        numbers = state.slots.numbers
        denoising, settled = numbers.clone(), numbers.clone()
        settled[:, Number.TEXT] += config.canvas_length
        settled[:, Number.CANVAS] = 1
        settled[:, Number.WRITTEN] = config.canvas_length

        def to(were: Tensor) -> Callable[[], object]:
            return lambda: numbers.copy_(were)

        run = torch.no_grad()(lambda: graphs.run(canvases))
        to(denoising)()
        return Passes(run, run, rewind=to(settled))

    def release(self) -> None:
        self.state = self._graphs = None


def laid_out(model: Transformer, canvases: int, prefix: int) -> State:
    """Slots in the middle of denoising, with `prefix` tokens of made-up text in pages and a page more for a commit."""
    config, like = model.config, model.embedding
    length, chunks = config.canvas_length, -(-prefix // config.canvas_length)
    # Of sliding layers the chunks behind the window share a page that nobody reads.
    behind = max(0, prefix - (config.sliding_window - 1)) // length
    short = replace(config, max_positions=(chunks + 2) * length)
    counts = canvases * (chunks + 1), 1 + canvases * (chunks + 1 - behind)
    state = make_state(short, like.device, like.dtype, canvases, 0, counts, ())
    slots, made = state.slots, torch.Generator(like.device).manual_seed(SEED)
    for tensor in (slots.text, slots.canvas, slots.argmax):
        tensor.random_(0, config.vocab_size, generator=made)
    slots.soft.normal_(0.0, 1.0, generator=made)
    values = {
        Number.RUNNING: 1, Number.PROMPT: prefix, Number.TEXT: prefix, Number.ENCODED: prefix, Number.CHUNKS: chunks,
        Number.GRANTED: chunks + 1, Number.STEP: 1, Number.MAX_STEPS: NEVER, Number.STABILITY: NEVER,
        Number.MAX_NEW: NEVER,
    }  # fmt: skip
    for column, value in values.items():
        slots.numbers[:, column] = value
    slots.numbers[:, Number.KEY_LOW] = torch.arange(canvases, dtype=torch.int32)
    slots.reals[:] = torch.tensor(REALS)
    numbers = torch.arange(chunks + 1, dtype=torch.int32)
    for slot in range(canvases):
        slots.pages[0, slot, : chunks + 1] = slot * (chunks + 1) + numbers
        own = 1 + slot * (chunks + 1 - behind) + numbers - behind
        slots.pages[1, slot, : chunks + 1] = torch.where(numbers < behind, 0, own)
        for layer in range(len(config.layers)):
            _fill(model, state, slot, layer, prefix, behind if config.layers[layer].sliding else 0)
    return state


def _fill(model: Transformer, state: State, slot: int, layer: int, prefix: int, behind: int) -> None:
    """Keys and values of one sequence into its pages of one layer."""
    length, sliding = model.config.canvas_length, model.config.layers[layer].sliding
    pages = state.slots.pages[int(sliding), slot].tolist()
    parts = prefix_of(model.config, layer, slot, prefix, model.embedding)
    for chunk, first in enumerate(range(0, prefix, length)):
        if chunk >= behind:
            for index, part in enumerate(parts):
                rows = part[first : first + length].transpose(0, 1)
                state.pools[layer][pages[chunk], index, :, : rows.shape[1]] = rows
