from __future__ import annotations

import pytest
import torch

from dgbatch.bench.autoregressive import Autoregressive
from dgbatch.bench.puzzles import Puzzle, messages, mixed
from dgbatch.demo.objective import encode
from dgbatch.engine.engine import Engine
from dgbatch.records import EngineConfig

LIMIT = 30
PUZZLES = mixed(6)  # prompts of 25 to 100 tokens: some longer than the window, some shorter


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load("demo", EngineConfig(canvases=1, threads=1))


@pytest.fixture(scope="module")
def expected(engine: Engine) -> list[list[int]]:
    return [one_by_one(engine, puzzle) for puzzle in PUZZLES]


def one_by_one(engine: Engine, puzzle: Puzzle) -> list[int]:
    """The same without a cache: the whole text through the layers for every token."""
    ids, new = engine.tokenizer.encode_chat(messages(puzzle)), []
    banned = engine.tokenizer.never_emitted(engine.end_ids)
    while len(new) < LIMIT and (not new or new[-1] not in engine.end_ids):
        hidden, _ = encode(engine.model, torch.tensor([ids + new]))
        logits = engine.model.logits(hidden[0, -1])
        logits[banned] = float("-inf")
        new.append(int(logits.argmax()))
    return new


@pytest.mark.parametrize("sequences", [1, 2, 4, 8])
def test_cache_batch_and_taking_over_places_change_no_token(engine, expected, sequences, monkeypatch):
    written: dict[int, list[int]] = {}
    leave = Autoregressive._leave
    monkeypatch.setattr(
        Autoregressive, "_leave", lambda self, text: (written.update({text.index: text.new_ids}), leave(self, text))
    )
    run = Autoregressive(engine, sequences, LIMIT).run(PUZZLES)
    assert [written[index] for index in range(6)] == expected
    assert len({len(ids) for ids in expected}) > 1  # they leave one by one
    assert (run.rows, run.tokens) == (6, sum(map(len, expected)))
    assert (run.canvases, run.steps) == (0, 0)


def test_the_demo_solves_puzzles_this_way_too(engine):
    assert Autoregressive(engine, 3).run(PUZZLES).solved >= 4
