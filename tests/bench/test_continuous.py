from __future__ import annotations

import pytest

from dgbatch.bench.continuous import Lockstep, run, with_canvases
from dgbatch.bench.puzzles import mixed, of_mixed_lengths, prompts
from dgbatch.engine import Engine
from dgbatch.records import EngineConfig


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load("demo", EngineConfig(canvases=1, threads=1, share_prefixes=False))


def test_lockstep_says_not_now_until_the_last_batch_is_done():
    asked = prompts(mixed(5))
    batches = Lockstep(asked, 2)
    feed = iter(batches)
    assert [next(feed) for _ in range(4)] == [asked[0], asked[1], None, None]
    batches.done = 1
    assert next(feed) is None
    batches.done = 2
    assert [next(feed) for _ in range(3)] == [asked[2], asked[3], None]
    batches.done = 4
    assert list(feed) == [asked[4]]


def test_lockstep_and_continuous_give_the_same_text_and_differ_in_passes(engine):
    puzzles = of_mixed_lengths(4, lambda answer: -(-(len(answer) + 1) // 48))
    free, held = with_canvases(engine, 2), with_canvases(engine, 2)
    continuous, lockstep = run(free, puzzles, None), run(held, puzzles, None, lockstep=True)
    assert continuous.rows == lockstep.rows == 4
    for name in ("solved", "tokens", "canvases", "steps"):
        assert getattr(continuous, name) == getattr(lockstep, name)
    assert continuous.canvases == 10  # 1 + 2 + 3 + 4
    assert free.stats.passes <= held.stats.passes


def test_engines_share_their_weights_and_nothing_else(engine):
    other = with_canvases(engine, 3)
    assert other.model is engine.model
    assert other.config.canvases == 3
    assert engine.config.canvases == 1
    assert other.stats is not engine.stats
