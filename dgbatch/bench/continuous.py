"""Our engine as a contender: prompts enter as others leave."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from dgbatch.bench.measure import Run
from dgbatch.bench.puzzles import Puzzle, prompts
from dgbatch.engine.engine import Engine
from dgbatch.records import Completion


def with_canvases(engine: Engine, canvases: int) -> Engine:
    """Another engine over the same weights."""
    config = replace(engine.config, canvases=canvases)
    return Engine(engine.model, engine.tokenizer, config, engine.defaults, list(engine.end_ids))


def run(engine: Engine, puzzles: Sequence[Puzzle], max_new_tokens: int | None) -> Run:
    """All puzzles once."""
    rows = solved = tokens = canvases = steps = 0
    start = time.perf_counter()
    for result in engine.generate(prompts(puzzles, max_new_tokens)):
        rows += 1
        if isinstance(result, Completion):
            solved += result.text == puzzles[int(result.id)].answer
            tokens += result.tokens
            canvases += result.canvases
            steps += result.denoise_steps
    return Run(rows, solved, tokens, time.perf_counter() - start, canvases, steps)
