"""One prompt on its way to a completion: tokens, canvas number, steps, pages. Knows no torch."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from dgbatch.engine.pages import Chunk, Lease
from dgbatch.records import FinishReason, Frame, Prompt, Settings


@dataclass(slots=True, eq=False)
class Sequence:
    """State of one prompt inside the engine; the engine moves it on, one verb per change."""

    prompt: Prompt
    settings: Settings
    prompt_ids: list[int]
    end_ids: frozenset[int]
    pending: deque[Chunk] = field(default_factory=deque)  # clean text that is in no page yet
    lease: Lease | None = None
    slot: int = -1  # its place among the canvases in flight
    token_ids: list[int] = field(default_factory=list)
    canvas: int = 0  # number of the canvas being denoised
    step: int = 0  # denoising steps this canvas has had
    still: int = 0  # steps in a row that left the argmax as it was
    denoise_steps: int = 0
    canvas_steps: list[int] = field(default_factory=list)  # of each canvas that settled
    revised_tokens: int = 0
    entropy_sum: float = 0.0  # of the settled canvases' mean entropies, nats
    finish: FinishReason | None = None
    noise: list[tuple[int, ...]] = field(default_factory=list)  # of each canvas, where the prompt is filmed
    frames: list[list[Frame]] = field(default_factory=list)  # by canvas and step
    began_at: float = 0.0  # seconds of a monotonic clock: pulled, first tile, first denoising step
    started_at: float = 0.0
    denoised_at: float = 0.0
    ended_at: float = 0.0

    def stepped(self, unchanged: bool) -> None:
        """One denoising step is done; `unchanged` says whether the argmax equals the step's before."""
        self.step += 1
        self.denoise_steps += 1
        self.still = self.still + 1 if unchanged else 0

    @property
    def out_of_steps(self) -> bool:
        """Whether its canvas had as many steps as it may have."""
        return self.step >= self.settings.max_denoising_steps

    def emit(self, canvas_ids: list[int]) -> None:
        """A canvas settled: take its tokens up to the end of the turn or the token limit."""
        self.canvas += 1
        self.canvas_steps.append(self.step)
        self.step = self.still = 0
        room = self.settings.max_new_tokens - len(self.token_ids)
        for token in canvas_ids[:room]:
            self.token_ids.append(token)
            if token in self.end_ids:
                self.finish = "end_of_turn"
                return
        if len(self.token_ids) >= self.settings.max_new_tokens:
            self.finish = "length"

    def stop_at(self, tokens: int) -> None:
        """A stop string is complete after this many tokens."""
        del self.token_ids[tokens:]
        self.finish = "stop"

    @property
    def answer_ids(self) -> list[int]:
        """The generated ids without the end-of-turn token."""
        return self.token_ids[:-1] if self.finish == "end_of_turn" else self.token_ids


def chunks_of(ids: list[int], length: int) -> deque[Chunk]:
    """A text cut at every multiple of `length`, wherever it is computed: a page's content depends on the text alone."""
    return deque(tuple(ids[start : start + length]) for start in range(0, len(ids), length))
