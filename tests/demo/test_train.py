from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dgbatch.demo import evaluate, train
from dgbatch.demo.checkpoint_files import answer_ids, prompt_ids
from dgbatch.demo.tasks import examples
from dgbatch.demo.train import STAGES, Portion, Stage
from dgbatch.engine.weights import load_transformer

SUDOKU4 = Portion("sudoku4", rows=2, clean_tokens=60, canvases=1)
SORT = Portion("sort", rows=2, clean_tokens=209, canvases=2)
SMALL = (Stage(2, 3e-3, (SUDOKU4, SORT)), Stage(2, 1e-3, (SUDOKU4, replace(SORT, every=3))))


def run(out: Path, seed: int = 0) -> bytes:
    """Four steps in two stages; returns the checkpoint's weights."""
    folder = train.train(out, seed, stages=SMALL, compiled=False, say=lambda line: None)
    return (folder / "model.safetensors").read_bytes()


def test_equal_seeds_train_equal_weights_and_others_do_not(tmp_path: Path) -> None:
    first = run(tmp_path / "a")
    assert first == run(tmp_path / "b")
    assert first != run(tmp_path / "c", seed=1)


def test_training_that_was_cut_short_ends_in_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole")
    monkeypatch.setattr(train, "SAVE_EVERY_STEPS", 2)
    follow = train.follow

    def power_cut(average, model, step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt
        follow(average, model, step)

    monkeypatch.setattr(train, "follow", power_cut)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    assert torch.load(tmp_path / "cut" / "state.pt")["step"] == 2
    monkeypatch.setattr(train, "follow", follow)
    assert run(tmp_path / "cut") == whole


def test_the_learning_rate_of_a_stage_warms_up_and_ends_near_nothing() -> None:
    stage = Stage(1000, 3e-3, (SUDOKU4,))
    rates = [rate for _, _, rate in train.schedule([stage])]
    assert rates[0] < rates[50] < rates[99]
    assert max(rates) == pytest.approx(3e-3, rel=0.05)
    assert rates[-1] < 1e-5


def test_a_later_stage_goes_on_counting_steps_and_begins_its_own_rate() -> None:
    steps = list(train.schedule(SMALL))
    assert [step for step, _, _ in steps] == [0, 1, 2, 3]
    assert [stage for _, stage, _ in steps] == [SMALL[0], SMALL[0], SMALL[1], SMALL[1]]
    assert steps[0][2] == 3 * steps[2][2]


def test_examples_are_counted_by_the_steps_a_portion_joins() -> None:
    assert train.drawn(SMALL, 4) == {"sudoku4": 8, "sort": 6}  # sort: steps 0, 1 and 3
    assert train.drawn(SMALL, 3) == {"sudoku4": 6, "sort": 4}


PORTIONS = [portion for stage in STAGES for portion in stage.portions]


@pytest.mark.parametrize("portion", PORTIONS, ids=lambda portion: portion.task)
def test_every_example_fits_its_portion(portion: Portion) -> None:
    for prompt, answer in examples(portion.task, seed=0, rows=500, held_out=False):
        assert len(prompt_ids(prompt)) + len(answer) + 1 <= portion.clean_tokens
        assert len(answer_ids(answer)) <= 48 * portion.canvases


def test_the_command_trains_and_says_where_the_checkpoint_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train.train, "__defaults__", (SMALL, *train.train.__defaults__[1:]))
    monkeypatch.setattr(
        sys,
        "argv",
        ["train", "--out", str(tmp_path), "--no-compile", "--threads", str(torch.get_num_threads())],
    )
    train.main()
    said = capsys.readouterr().out
    assert "step 4/4  denoising/causal loss: sudoku4 " in said
    assert f"wrote {tmp_path / 'checkpoint'}" in said
    assert load_transformer(tmp_path / "checkpoint").embedding.dtype == torch.bfloat16


def test_the_command_evaluates_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(evaluate, "evaluate", lambda checkpoint, rows: asked.append((checkpoint, rows)))
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "train",
            "--evaluate",
            "--rows",
            "7",
            "--checkpoint",
            str(tmp_path),
            "--threads",
            str(torch.get_num_threads()),
        ],
    )
    train.main()
    assert asked == [(tmp_path, 7)]
