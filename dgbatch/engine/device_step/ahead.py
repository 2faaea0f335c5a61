"""The loop on a GPU: the next step is launched before the host reads what the last one said."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch

from dgbatch.engine import film, noise
from dgbatch.engine.device_step.cuda_graph import Graphs
from dgbatch.engine.device_step.forward import Step
from dgbatch.engine.device_step.grants import AHEAD, Grants, Turn
from dgbatch.engine.device_step.orders import Orders
from dgbatch.engine.device_step.state import make_state
from dgbatch.engine.device_step.told import Saying, make_saying
from dgbatch.engine.device_step.weights import step_weights
from dgbatch.engine.kernels.tables import Frame, Told
from dgbatch.engine.memory import device_step_bytes
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.pages import Pages
from dgbatch.engine.phases import Phases
from dgbatch.engine.scheduler import Scheduler
from dgbatch.engine.sequence import Sequence
from dgbatch.engine.settling import settle
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.records import EngineConfig, EngineStats

DEPTH = 1  # steps launched beyond the one that is read: enough to hide the host, and no canvas rests for longer


@dataclass(frozen=True, slots=True)
class Launched:
    """A step that is with the device."""

    saying: Saying
    turn: Turn
    seated: list[Sequence]  # those in flight when it was launched, each in its slot


class AheadLoop:
    """What is in flight on a device that decides by itself. The engine admits, and retires what `finish` returns."""

    pages_ahead = AHEAD  # given to a text before it is there

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        config: EngineConfig,
        canvases: int,
        pages: tuple[int, int],
        end_ids: Collection[int],
        stats: EngineStats,
        phases: Phases,
        depth: int = DEPTH,
    ):
        """pages: of the pools of full and of sliding layers."""
        shape, device = model.config, model.embedding.device
        window = shape.sliding_window - 1
        self.pages = Pages(*pages, shape.canvas_length, window, config.share_prefixes, AHEAD)
        self.state = make_state(shape, device, model.embedding.dtype, canvases, config.prefill_tiles, pages, end_ids)
        self.graphs = Graphs(Step(shape, step_weights(model), self.state, config.fold), device)
        self.depth = depth
        self._shape, self._tokenizer, self._stats, self._phases = shape, tokenizer, stats, phases
        self._grants = Grants(self.pages, shape.canvas_length, config.fold)
        self._orders = Orders(self.state, tokenizer.never_emitted(end_ids))
        self._spare: list[Saying] = []  # whom nobody reads any more
        self._launched: deque[Launched] = deque()
        self._before: Saying | None = None  # of the step that was read last
        self._reading = 0  # launched steps that are left unread

    @staticmethod
    def held_bytes(shape: ModelConfig, dtype: torch.dtype, canvases: int, prefill_tiles: int) -> int:
        """Of the device, beside weights and pages of clean text."""
        return device_step_bytes(shape, dtype, canvases, prefill_tiles)

    def admit(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            self._grants.admit(sequence)
            tokens = self._noise(sequence)
            self._orders.seat(sequence, tokens)
            if film.wants_noise(sequence):
                film.begin(sequence, tokens)

    def start(self, scheduler: Scheduler) -> None:
        """Launch the next step of those in flight."""
        self._reading = self.depth
        if not scheduler.flight:
            self._reading = 0  # nobody is behind these steps any more
            return
        turn = self._grants.turn(scheduler)
        for grant in turn.grants:
            self._orders.grant(grant)
        now = time.perf_counter()
        for sequence in turn.canvases:
            sequence.denoised_at = sequence.denoised_at or now
        self._phases.begins()
        saying = self._spare.pop() if self._spare else make_saying(self.state)
        saying.began.record()
        self._orders.send()
        self.graphs.run(turn.tiles)
        saying.copy(self.state.said)
        self._launched.append(Launched(saying, turn, list(scheduler.flight)))

    def finish(self) -> list[Sequence]:
        """Read all but the steps that run ahead; returns the sequences that are done."""
        done: list[Sequence] = []
        while len(self._launched) > self._reading:
            done += self._read(self._launched.popleft())
        return done

    def leave(self, sequence: Sequence) -> None:
        """It is retired: nothing more is known of it, and its slot is still if it was not."""
        self._grants.retire(sequence)
        self._orders.stop(sequence.slot)

    def forget(self) -> None:
        """Nobody wants to know what is still with the device."""
        self._spare += [launched.saying for launched in self._launched]  # the stream keeps their copies in order
        self._launched.clear()
        if self._before:
            self._spare.append(self._before)
        self._before = None
        self._phases.stops()

    def _read(self, launched: Launched) -> list[Sequence]:
        saying, turn, stats = launched.saying, launched.turn, self._stats
        saying.wait()
        told = saying.told.tolist()
        done: list[Sequence] = []
        canvases = committed = 0
        for sequence in launched.seated:
            if sequence.finish:  # told so by an earlier step, or by its stop string: this one was thrown away
                continue
            row = told[sequence.slot]
            entropy = float("inf")
            if row[Told.DENOISED]:
                canvases += 1
                stats.prefix_tokens += row[Told.ENCODED]
                entropy = self._stepped(sequence, row, saying)
                if sequence.finish:
                    done.append(sequence)
            committed += self._grants.told(sequence, row[Told.ENCODED], bool(row[Told.SETTLED]), entropy)
        length, tiles = self._shape.canvas_length, turn.prompt_tiles + committed + canvases
        stats.passes += bool(tiles)
        stats.tiles += tiles
        stats.steps += bool(canvases)
        stats.canvas_tiles += canvases
        encoding = turn.prompt_tokens + committed * length
        ratio = encoding / (encoding + canvases * length) if tiles else 0.0
        self._phases.done(ratio, saying.idle_s(self._before), more=bool(self._launched))
        if self._before:
            self._spare.append(self._before)
        self._before = saying
        return done

    def _stepped(self, sequence: Sequence, row: list[int], saying: Saying) -> float:
        """Its canvas had a step; returns its mean entropy."""
        frame = saying.frames[sequence.slot, :, : self._shape.canvas_length]
        assert (sequence.canvas, sequence.step + 1) == (row[Told.CANVAS], row[Told.STEP]), "host and device disagree"
        if film.wants_frame(sequence):
            nats = film.in_steps(frame[Frame.ENTROPY].view(torch.float32))
            shown = (Frame.TOKENS, Frame.ACCEPTED, Frame.ARGMAX)
            film.add(sequence, [*(frame[part].tolist() for part in shown), nats.tolist()])
        sequence.stepped(bool(row[Told.UNCHANGED]))
        entropy = torch.tensor(row[Told.MEAN_ENTROPY], dtype=torch.int32).view(torch.float32).item()
        if row[Told.SETTLED]:
            sequence.entropy_sum += entropy
            argmax, first = frame[Frame.ARGMAX].tolist(), frame[Frame.FIRST_ACCEPTED].tolist()
            settle(sequence, argmax, first, self._tokenizer, self._stats)
            assert not row[Told.FINISH] or sequence.finish, "host and device disagree"
            if not sequence.finish and film.wants_noise(sequence):
                film.begin(sequence, self._noise(sequence))
        return entropy

    def _noise(self, sequence: Sequence) -> list[int]:
        """The tokens that its canvas begins with."""
        keys = torch.tensor([noise.split_key(sequence.prompt.noise_key)])
        canvas, steps = torch.tensor([sequence.canvas]), torch.zeros(1, 1, dtype=torch.int64)
        fresh, _ = noise.draws(keys, canvas, steps, self._shape.canvas_length, self._shape.vocab_size)
        return fresh.flatten().tolist()
