"""The canvases in flight: what a denoising step reads and writes, by slot, on the device."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbatch.engine import film, noise, sampler
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.sampler import Belief
from dgbatch.engine.sequence import Sequence

NOISE_STEPS = 8  # drawn at once: most canvases settle within as many


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step says about one canvas, on the host."""

    unchanged: bool  # the argmax is that of the step before
    mean_entropy: float  # nats


class Canvases:
    """One row per slot. A slot's canvas number and step are its sequence's."""

    def __init__(self, model: Transformer, slots: int, banned: Many[int]):
        """banned: ids that are never drawn and never settle."""
        self.model = model
        self.device = device = model.embedding.device
        length, hidden = model.config.canvas_length, model.config.hidden
        self.tokens = torch.zeros(slots, length, dtype=torch.int64, device=device)
        self.argmax = torch.full_like(self.tokens, -1)
        self.first_accepted = torch.full_like(self.tokens, -1)
        self.accepted = torch.zeros_like(self.tokens, dtype=torch.bool)
        self.entropy = torch.zeros(slots, length, device=device)
        self.soft = torch.zeros(slots, length, hidden, dtype=model.embedding.dtype, device=device)
        self._fresh = torch.zeros(slots, NOISE_STEPS + 1, length, dtype=torch.int64, device=device)
        self._level = torch.zeros(slots, NOISE_STEPS + 1, length, device=device)
        self._banned = self._ids(list(banned))

    def lay(self, sequences: Many[Sequence]) -> None:
        """Fresh canvases of uniform noise, with nothing believed about them yet."""
        if not sequences:
            return
        slots = self._slots(sequences)
        self._draw_noise(sequences)
        self.tokens[slots] = self._fresh[slots, 0]
        self.argmax[slots] = -1
        self.first_accepted[slots] = -1
        self.soft[slots] = 0
        film.shoot_noise(self, sequences)

    def step(self, sequences: Many[Sequence], logits: Tensor) -> list[Outcome]:
        """One denoising decision for each. logits: (batch, padded canvas, vocab) float32, softcapped."""
        slots = self._slots(sequences)
        self._draw_noise([one for one in sequences if one.step and one.step % NOISE_STEPS == 0])
        settings = [sequence.settings for sequence in sequences]
        temperatures = [sampler.temperature_at(sequence.step, sequence.settings) for sequence in sequences]
        steps = torch.tensor([sequence.step % NOISE_STEPS for sequence in sequences], device=self.device)
        z = logits / self._floats(temperatures)[:, None, None]
        if len(self._banned):
            z.index_fill_(-1, self._banned, float("-inf"))
        for place, own in enumerate(settings):
            if own.suppress_tokens:
                z[place].index_fill_(-1, self._ids(list(own.suppress_tokens)), float("-inf"))
        length = self.tokens.shape[1]
        belief = sampler.believe(z)
        soft = self.model.soft_embeddings(belief.p)[:, :length]
        belief = Belief(belief.p[:, :length], belief.entropy[:, :length], belief.argmax[:, :length])
        drawn = sampler.draw(belief.p, self._level[slots, steps])
        if any(own.greedy for own in settings):
            greedy = torch.tensor([own.greedy for own in settings], device=self.device)
            drawn = torch.where(greedy[:, None], belief.argmax, drawn)
        bound = self._floats([own.entropy_bound for own in settings])
        decision = sampler.next_canvas(belief, drawn, self._fresh[slots, steps + 1], bound)
        unchanged = (decision.argmax == self.argmax[slots]).all(-1)
        first = self.first_accepted[slots]
        self.first_accepted[slots] = torch.where(decision.accepted & (first < 0), drawn, first)
        self.tokens[slots] = decision.next_canvas
        self.argmax[slots] = decision.argmax
        self.accepted[slots] = decision.accepted
        self.entropy[slots] = belief.entropy
        self.soft[slots] = soft
        film.shoot(self, sequences)
        # one transfer for both
        told = torch.stack([unchanged.float(), decision.mean_entropy]).tolist()
        return [Outcome(bool(still), entropy) for still, entropy in zip(*told, strict=True)]

    def settled(self, sequence: Sequence) -> tuple[list[int], list[int]]:
        """The tokens of a canvas that settled, and those that its positions were first sure of; -1 where never."""
        argmax, first = torch.stack([self.argmax[sequence.slot], self.first_accepted[sequence.slot]]).tolist()
        return argmax, first

    def _draw_noise(self, sequences: Many[Sequence]) -> None:
        """For the next steps of each, one more of fresh tokens: a step's own are those of the canvas before it."""
        if not sequences:
            return
        slots = self._slots(sequences)
        keys = self._ids([noise.split_key(one.prompt.noise_key) for one in sequences])
        steps = self._ids([one.step for one in sequences])[:, None] + torch.arange(NOISE_STEPS + 1, device=self.device)
        numbers = self._ids([one.canvas for one in sequences])
        config = self.model.config
        self._fresh[slots], self._level[slots] = noise.draws(
            keys, numbers, steps, config.canvas_length, config.vocab_size
        )

    def _slots(self, sequences: Many[Sequence]) -> Tensor:
        return self._ids([sequence.slot for sequence in sequences])

    def _ids(self, values: list) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def _floats(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)
