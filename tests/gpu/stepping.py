"""A model's whole step with texts put into its slots by hand: no engine, no scheduler."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dgbatch.engine.device_step.forward import Step
from dgbatch.engine.device_step.state import State, make_state
from dgbatch.engine.device_step.weights import step_weights
from dgbatch.engine.kernels.tables import Frame, Number
from dgbatch.engine.model.transformer import Transformer
from tests.gpu.machine import DEVICE

MAX_STEPS, TEMPERATURES, BOUND = 24, (0.8, 0.4), 1.0


@dataclass(frozen=True)
class Stepping:
    """Slots of `state`; pages in the order of slots and chunks, as if somebody had granted them all."""

    model: Transformer
    state: State
    step: Step

    @classmethod
    def of(cls, model: Transformer, slots: int) -> Stepping:
        model = model.to(DEVICE).prepare()
        config = model.config
        pages = 8 * slots
        made = make_state(config, torch.device(DEVICE), model.embedding.dtype, slots, 4, (pages, pages), ())
        return cls(model, made, Step(config, step_weights(model), made, True))

    def seat(self, slot: int, prompt: list[int], canvas: list[int], key: int = 5) -> None:
        slots, length = self.state.slots, self.model.config.canvas_length
        numbers = {
            Number.RUNNING: 1, Number.PROMPT: len(prompt), Number.TEXT: len(prompt), Number.GRANTED: 8,
            Number.KEY_LOW: key, Number.KEY_HIGH: -key, Number.MAX_STEPS: MAX_STEPS, Number.STABILITY: MAX_STEPS,
            Number.MAX_NEW: 1 << 20,
        }  # fmt: skip
        for number in Number:
            slots.numbers[slot, number] = numbers.get(number, 0)
        slots.reals[slot] = torch.tensor([*TEMPERATURES, BOUND, 0.0])
        self._write(slots.text[slot], prompt)
        own = 8 * slot + torch.arange(8, dtype=torch.int32)
        slots.pages[0, slot, :8], slots.pages[1, slot, :8] = own, own.flip(0)
        assert len(canvas) == length
        self._write(slots.canvas[slot], canvas)
        slots.argmax[slot], slots.first_accepted[slot] = -1, -1

    def settle(self, slot: int, tokens: list[int], canvas: list[int]) -> None:
        """Its canvas becomes text, as if it had settled, and another one begins."""
        slots, numbers = self.state.slots, self.state.slots.numbers[slot]
        self._write(slots.text[slot, int(numbers[Number.TEXT]) :], tokens)
        numbers[Number.TEXT] += len(tokens)
        numbers[Number.CANVAS] += 1
        numbers[Number.STEP], numbers[Number.STILL] = 0, 0
        self._write(slots.canvas[slot], canvas)

    def frame(self, slot: int, row: Frame) -> Tensor:
        """(canvas,) of what the last step said."""
        own = self.state.slots.frames[slot, row, : self.model.config.canvas_length]
        return own.view(torch.float32) if row is Frame.ENTROPY else own

    def snapshot(self) -> dict[str, Tensor]:
        """All that steps write."""
        state = self.state
        slots = {name: getattr(state.slots, name).clone() for name in ("soft", "text", "canvas", "argmax", "numbers")}
        pools = {f"pool {at}": pool.clone() for at, pool in enumerate(state.pools)}
        return slots | pools | {"said": state.said.clone(), "first": state.slots.first_accepted.clone()}

    def _write(self, where: Tensor, ids: list[int]) -> None:
        where[: len(ids)] = torch.tensor(ids, dtype=torch.int32)
