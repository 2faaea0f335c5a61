"""Parity (c): on the demo checkpoint, our engine and transformers' generate agree within sampling error.

Both draw their own noise, so rows differ one by one; what must agree is the share of puzzles solved and the
denoising steps a canvas takes. Three standard errors of the difference: with equal means a run strays past
that once in 370, and the seeds are fixed.
"""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from statistics import mean, variance

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow
transformers = pytest.importorskip("transformers", reason="the reference, a development dependency")

DEMO = Path(__file__).parents[2] / "dgbatch" / "demo"
PUZZLES = {"sudoku4": 250, "sudoku6": 250}  # both fit one canvas and have prompts of one length each


def puzzles(task: str, count: int) -> list[dict]:
    rows = pq.read_table(DEMO / "prompts.parquet").to_pylist()
    return [row for row in rows if row["task"] == task][:count]


def ours(rows: list[dict]) -> tuple[list[float], list[float]]:
    """Solved (0 or 1) and denoising steps, one of each per row."""
    from dgbatch.engine import Engine
    from dgbatch.records import EngineConfig, Generation, Prompt

    answers = {row["id"]: row["answer"] for row in rows}
    one_canvas = Generation(max_new_tokens=48)
    prompts = [
        Prompt(row["id"], 0, ({"role": "user", "content": row["prompt"]},), number, generation=one_canvas)
        for number, row in enumerate(rows)
    ]
    results = list(Engine.load("demo", EngineConfig(canvases=8)).generate(prompts))
    return [float(r.text == answers[r.id]) for r in results], [float(r.denoise_steps) for r in results]


def theirs(rows: list[dict]) -> tuple[list[float], list[float]]:
    import torch

    from dgbatch.engine.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(DEMO / "checkpoint")
    model = transformers.DiffusionGemmaForBlockDiffusion.from_pretrained(
        DEMO / "checkpoint", dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    ids = torch.tensor([tokenizer.encode_chat([{"role": "user", "content": row["prompt"]}]) for row in rows])
    torch.manual_seed(0)
    solved, steps = [], []
    for start in range(0, len(rows), 50):
        output = model.generate(ids[start : start + 50], max_new_tokens=48, return_dict_in_generate=True)
        new = output.sequences[:, ids.shape[1] :]
        passes = (new != 0).sum(-1) / output.tokens_per_forward
        for row, tokens, taken in zip(rows[start : start + 50], new.tolist(), passes.tolist(), strict=True):
            solved.append(float(tokenizer.decode(tokens) == row["answer"]))
            steps.append(taken)
    return solved, steps


def strays(a: list[float], b: list[float]) -> float:
    """The difference of two means in standard errors."""
    error = sqrt((variance(a) + variance(b)) / len(a))
    return abs(mean(a) - mean(b)) / error if error else 0.0 if mean(a) == mean(b) else float("inf")


@pytest.mark.parametrize("task", PUZZLES)
@pytest.mark.filterwarnings("default")  # transformers warns about its own future
def test_solved_share_and_steps_agree_with_transformers(task: str) -> None:
    rows = puzzles(task, PUZZLES[task])
    assert len(rows) == PUZZLES[task]
    (our_solved, our_steps), (their_solved, their_steps) = ours(rows), theirs(rows)
    print(
        f"{task}: solved {mean(our_solved):.3f} ours, {mean(their_solved):.3f} transformers; "
        f"steps per canvas {mean(our_steps):.2f} ours, {mean(their_steps):.2f} transformers"
    )
    assert strays(our_solved, their_solved) < 3
    assert strays(our_steps, their_steps) < 3
