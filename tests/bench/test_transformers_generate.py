from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from dgbatch.bench.puzzles import mixed
from dgbatch.bench.transformers_generate import EXPERTS, TransformersGenerate, turn
from dgbatch.engine.checkpoint import DEMO
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.errors import BenchError

ENDS = frozenset({1, 5})


def test_a_turn_ends_at_its_first_end():
    assert turn([7, 8, 5, 0, 0], ENDS) == [7, 8, 5]
    assert turn([7, 8, 9], ENDS) == [7, 8, 9]
    assert turn([1], ENDS) == [1]


def test_without_transformers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BenchError, match=r"pip install 'dgbatch\[bench\]', or leave it out with --no-transformers"):
        TransformersGenerate(Path(), Tokenizer.load(DEMO), ENDS, torch.device("cpu"), torch.float32)


@pytest.mark.filterwarnings("default")  # transformers warns about its own future
def test_padding_and_ways_to_run_experts_still_solve_the_puzzles():
    pytest.importorskip("transformers")
    theirs = TransformersGenerate(DEMO, Tokenizer.load(DEMO), ENDS, torch.device("cpu"), torch.float32)
    assert [experts for experts in EXPERTS if theirs.accepts(experts)] == list(EXPERTS)
    assert not theirs.accepts("no such way")
    for batch, experts in ((1, "eager"), (4, "grouped_mm")):
        run = theirs.run(mixed(4), batch, experts, None)
        assert (run.rows, run.solved) == (4, 4)
        assert run.tokens == sum(len(puzzle.answer) + 1 for puzzle in mixed(4))
        assert 1.5 <= run.steps / run.canvases <= 10
