"""An engine that answers at once: what is measured with it is everything around an engine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from dgbatch.records import Completion, CurvePoint, EngineConfig, EngineStats, Prompt

PATH = f"{__name__}:InstantEngine"
FIRST = "first-row"  # file in the checkpoint's folder: when the first prompt came, in seconds since 1970


class InstantEngine:
    """Completes any prompt in no time, in a few tokens that follow from its noise key. The checkpoint is any folder."""

    def __init__(self, checkpoint: Path, config: EngineConfig):
        self.in_flight = config.canvases or 1024
        self.stats = EngineStats()
        self.curve: list[CurvePoint] = []
        self.model_checksum = "instant"
        self.device_name = "none"
        self._checkpoint = checkpoint

    @classmethod
    def load(
        cls, checkpoint: str, config: EngineConfig, revision: str | None = None, local_only: bool = False
    ) -> InstantEngine:
        return cls(Path(checkpoint), config)

    def generate(self, prompts: Iterable[Prompt | None]) -> Iterator[Completion]:
        """One completion per prompt, in order."""
        for prompt in prompts:
            if prompt is None:
                continue
            if not self.stats.prompts:
                note_first_row(self._checkpoint)
            done = complete(prompt)
            self.stats.prompts += 1
            self.stats.passes += 1
            self.stats.prompt_tokens += done.prompt_tokens
            self.stats.tokens += len(done.token_ids)
            self.stats.canvases += 1
            self.stats.denoise_steps += done.denoise_steps
            yield done


def complete(prompt: Prompt) -> Completion:
    """What this engine makes of a prompt."""
    key = prompt.noise_key
    return Completion(
        id=prompt.id,
        sample=prompt.sample,
        text=f"The answer is {key % 100_000}.",
        thinking=None,
        finish_reason="end_of_turn",
        token_ids=(key % 997, key % 499, key % 251, 1),
        prompt_tokens=len(prompt.messages[-1]["content"]) // 4,
        canvases=1,
        denoise_steps=1 + key % 4,
        noise_key=key,
        canvas_steps=(1 + key % 4,),
    )


def note_first_row(folder: Path) -> None:
    """The first process to come here writes down when."""
    try:
        handle = os.open(folder / FIRST, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return
    with os.fdopen(handle, "w") as file:
        file.write(repr(time.time()))
