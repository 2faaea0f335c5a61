from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from dgbatch.demo import evaluate
from dgbatch.demo.evaluate import BARS, mini_sudoku, solve
from dgbatch.demo.tasks import TASK_NAMES, Example, examples, is_held_out
from dgbatch.records import Completion, EngineConfig, Prompt, Rejection

PUZZLES: list[Example] = [(f"puzzle {number}", f"answer {number}") for number in range(4)]


class Oracle:
    """An engine that knows the answers, gets one wrong and rejects another."""

    def __init__(self, answers: dict[str, str]):
        self.answers = answers

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[Completion | Rejection]:
        for number, prompt in enumerate(prompts):
            if number == 1:
                yield Rejection(prompt.id, 0, "prompt_too_long", "too long")
                continue
            text = "wrong" if number == 2 else self.answers[prompt.messages[0]["content"]]
            yield Completion(prompt.id, 0, text, None, "end_of_turn", (5,), 10, 2, 8, prompt.noise_key)


def test_only_exact_answers_count_as_solved() -> None:
    score = solve(Oracle(dict(PUZZLES)), "sort", PUZZLES)
    assert (score.rows, score.solved, score.canvases, score.denoise_steps) == (4, 2, 6, 24)
    assert score.solved_ratio == 0.5
    assert score.steps_per_canvas == 4.0


def test_the_table_has_a_line_per_task(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(evaluate, "mini_sudoku", lambda rows, seed: examples("sudoku4", seed, rows, held_out=True))
    answers = {p: a for task in TASK_NAMES for p, a in examples(task, evaluate.SEED, 4, held_out=True)}

    class FakeEngine:
        @staticmethod
        def load(checkpoint: str, config: EngineConfig) -> Oracle:
            assert checkpoint == "somewhere"
            return Oracle(answers)

    monkeypatch.setattr(evaluate, "Engine", FakeEngine)
    scores = evaluate.evaluate(Path("somewhere"), rows=4)
    assert [score.task for score in scores] == list(BARS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["sudoku4", "4", "50.0%", "98%", "4.00"]
    assert len(lines) == 5


def test_mini_sudoku_is_reasoning_gyms_in_our_form_and_held_out() -> None:
    gym = pytest.importorskip("reasoning_gym", reason="the source of fresh 4x4 puzzles, an optional dependency")
    puzzles = mini_sudoku(20, seed=5)
    assert len(dict(puzzles)) == 20
    assert all(is_held_out(prompt) for prompt, _ in puzzles)
    theirs = {item["answer"].replace(" ", "") for item in gym.create_dataset("mini_sudoku", seed=5, size=500)}
    assert {answer for _, answer in puzzles} <= theirs
    prompt, answer = puzzles[0]
    clues = prompt.removeprefix("sudoku4\n")
    assert all(clue in ("_", digit) for clue, digit in zip(clues, answer, strict=True))


def test_without_reasoning_gym_our_own_puzzles_serve_and_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    assert mini_sudoku(5, seed=5) == examples("sudoku4", 5, 5, held_out=True)
    assert "reasoning-gym is not installed" in capsys.readouterr().err


@pytest.mark.slow
def test_the_packaged_checkpoint_clears_every_bar() -> None:
    scores = evaluate.evaluate(Path(evaluate.__file__).parent / "checkpoint", rows=1000)
    assert {score.task: score.solved_ratio for score in scores if score.solved_ratio < BARS[score.task]} == {}
