"""A row's tokens depend on the row alone: a thousand puzzles on the real checkpoint, in every kind of company."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from dgbatch import demo
from dgbatch.demo.tasks import TASK_NAMES, examples
from dgbatch.engine import Engine
from dgbatch.records import Completion, EngineConfig, Prompt, Rejection

pytestmark = pytest.mark.slow

CHECKPOINT = str(Path(demo.__file__).parent / "checkpoint")
ROWS = 1000


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return [
        Prompt(f"{task}-{index}", 0, ({"role": "user", "content": prompt},), noise_key=index * 4 + number)
        for number, task in enumerate(TASK_NAMES)
        for index, (prompt, _) in enumerate(examples(task, 11, ROWS // len(TASK_NAMES), held_out=True))
    ]


@pytest.fixture(scope="module")
def alone(prompts: list[Prompt]) -> dict[str, Completion | Rejection]:
    return generated(prompts, canvases=1, share_prefixes=False, fold=False)


def generated(prompts: list[Prompt], **config: Any) -> dict[str, Completion | Rejection]:
    engine = Engine.load(CHECKPOINT, EngineConfig(device="cpu", threads=1, **config))
    results = {result.id: result for result in engine.generate(prompts)}
    assert len(results) == ROWS
    return results


@pytest.mark.parametrize(
    "config",
    [
        {"canvases": 3},
        {"canvases": 8, "fold": False},
        {"canvases": 8, "share_prefixes": False, "prefill_tiles": 1},
        {"canvases": 16},
    ],
    ids=str,
)
def test_a_thousand_rows_are_token_for_token_the_same(
    prompts: list[Prompt], alone: dict[str, Completion | Rejection], config: dict[str, Any]
) -> None:
    shuffled = random.Random(str(config)).sample(prompts, len(prompts))
    assert generated(shuffled, **config) == alone
