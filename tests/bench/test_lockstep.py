from __future__ import annotations

import pytest

from dgbatch.bench import continuous, lockstep
from dgbatch.bench.puzzles import of_mixed_lengths
from dgbatch.engine import Engine
from dgbatch.records import EngineConfig


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load("demo", EngineConfig(canvases=2, threads=1, share_prefixes=False))


def test_batches_say_the_same_as_tiles_and_compute_more(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of one to four canvases, two at once: a batch goes on with both rows until the longer one ends."""
    puzzles = of_mixed_lengths(4, lambda answer: -(-(len(answer) + 1) // 48))
    exact, computed = engine.canvases.step, []
    monkeypatch.setattr(engine.canvases, "step", lambda rows, logits: computed.append(len(rows)) or exact(rows, logits))

    free = continuous.run(engine, puzzles, None)
    steps_of_tiles = sum(computed)
    computed.clear()
    held = lockstep.run(engine, puzzles, None)

    assert (held.rows, held.solved, held.tokens) == (free.rows, free.solved, free.tokens)
    assert (held.canvases, held.steps) == (free.canvases, free.steps)
    assert held.canvases == 10  # 1 + 2 + 3 + 4
    assert steps_of_tiles == free.steps
    assert sum(computed) > held.steps  # rows that were done went on
    assert set(computed) == {2}


def test_the_memory_of_a_batch_is_free_afterwards(engine: Engine) -> None:
    lockstep.run(engine, of_mixed_lengths(3, lambda answer: 1 + len(answer) // 48), None)
    assert (engine.pages.full.reserved, engine.pages.sliding.reserved) == (0, 0)
