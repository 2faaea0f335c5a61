"""Batches as engines without tiles must run them: all rows take every step of the slowest, and none is replaced."""

from __future__ import annotations

import time
from collections.abc import Sequence as Many

import torch

from dgbatch.bench.measure import Run
from dgbatch.bench.puzzles import Puzzle, prompts
from dgbatch.engine import sampler
from dgbatch.engine.engine import Engine
from dgbatch.engine.plain_loop import PlainLoop
from dgbatch.engine.scheduler import Scheduler
from dgbatch.engine.sequence import Sequence


@torch.inference_mode()
def run(engine: Engine, puzzles: Many[Puzzle], max_new_tokens: int | None) -> Run:
    """All puzzles once, in batches of the engine's canvases in flight."""
    asked, batch = prompts(puzzles, max_new_tokens), engine.in_flight
    loop = engine.plain_loop(batch)
    solved = tokens = canvases = steps = 0
    start = time.perf_counter()
    for first in range(0, len(asked), batch):
        scheduler = Scheduler(loop.pages, batch, engine.model.config.canvas_length, engine.config.prefill_tiles)
        for prompt in asked[first : first + batch]:
            scheduler.waiting.append(engine.intake.sequence(prompt, scheduler, loop.pages))
        rows = scheduler.admit()
        while not all(row.finish for row in rows):
            steps += one_canvas(loop, scheduler, rows)
        for row in rows:
            text = engine.tokenizer.parse(row.answer_ids).text
            solved += text == puzzles[int(row.prompt.id)].answer
            tokens += len(row.token_ids)
            canvases += row.canvas
            scheduler.retire(row)
    return Run(len(asked), solved, tokens, time.perf_counter() - start, canvases, steps)


def one_canvas(loop: PlainLoop, scheduler: Scheduler, rows: list[Sequence]) -> int:
    """Denoise one canvas of every row until the last has settled; returns the steps that the unfinished ones needed."""
    loop.canvases.lay(rows)
    settled: dict[Sequence, list[int]] = {}
    steps = 0
    while len(settled) < len(rows):
        loop.steps.start(scheduler.plan())
        for row, outcome in loop.steps.finish():
            if row in settled:
                continue  # computed all the same
            row.stepped(outcome.unchanged)
            if row.out_of_steps or sampler.is_settled(row.still, outcome.mean_entropy, row.settings):
                settled[row], _ = loop.canvases.settled(row)
                steps += 0 if row.finish else row.step
    for row, ids in settled.items():
        if row.finish:
            row.step = row.still = 0
        else:
            row.emit(ids)
        row.pending.append(tuple(ids))  # a batch encodes all its rows
    return steps
