"""Our engine as a contender: fed as it likes, or in lockstep batches as others must be fed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from dgbatch.bench.measure import Run
from dgbatch.bench.puzzles import Puzzle, prompts
from dgbatch.engine.engine import Engine
from dgbatch.records import Completion, Prompt


def with_canvases(engine: Engine, canvases: int) -> Engine:
    """Another engine over the same weights."""
    config = replace(engine.config, canvases=canvases)
    return Engine(engine.model, engine.tokenizer, config, engine.defaults, list(engine.end_ids))


def run(engine: Engine, puzzles: Sequence[Puzzle], max_new_tokens: int | None, lockstep: bool = False) -> Run:
    """All puzzles once."""
    feed: Iterable[Prompt | None] = prompts(puzzles, max_new_tokens)
    batches = Lockstep(prompts(puzzles, max_new_tokens), engine.in_flight) if lockstep else None
    rows = solved = tokens = canvases = steps = 0
    start = time.perf_counter()
    for result in engine.generate(batches or feed):
        rows += 1
        if batches:
            batches.done += 1
        if isinstance(result, Completion):
            solved += result.text == puzzles[int(result.id)].answer
            tokens += result.tokens
            canvases += result.canvases
            steps += result.denoise_steps
    return Run(rows, solved, tokens, time.perf_counter() - start, canvases, steps)


class Lockstep:
    """Batches of one size: the next begins when all of the last are done. Kinder than a padded batch, for a row that
    is done costs nothing while it waits for the others."""

    def __init__(self, prompts: Sequence[Prompt], batch: int):
        self.done = 0
        self._prompts = prompts
        self._batch = batch

    def __iter__(self) -> Iterator[Prompt | None]:
        for first in range(0, len(self._prompts), self._batch):
            while self.done < first:
                yield None  # none ready now: ask again after the next step
            yield from self._prompts[first : first + self._batch]
