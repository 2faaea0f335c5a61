from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dgbatch.demo import objective
from dgbatch.demo.checkpoint_files import END_OF_TURN, EOS, VOCABULARY, answer_ids, prompt_ids
from dgbatch.demo.objective import NOT_SUPERVISED, canvas_masks, denoise, encode, losses, make_batch
from dgbatch.demo.train import new_model
from dgbatch.engine.engine import Engine
from dgbatch.engine.generation_config import read_generation_config
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.records import EngineConfig

PACKAGED = Path(objective.__file__).parent / "checkpoint"
SHORT, LONG = ("sort b11 a22", "a22 b11"), ("sort " + " ".join("ponmlkjihgfedcba"), " ".join("abcdefghijklmnop" * 2))


@pytest.fixture(scope="module")
def model() -> Transformer:
    return new_model(torch.Generator().manual_seed(1))


def test_a_batch_holds_the_clean_text_and_says_what_follows_it() -> None:
    batch = make_batch([SHORT, LONG], clean_tokens=120, canvases=2, generator=torch.Generator())
    start = len(prompt_ids(SHORT[0]))
    assert batch.prompt_tokens[0] == start
    spoken = [*(VOCABULARY[character] for character in SHORT[1]), END_OF_TURN]
    assert batch.clean[0, :start].tolist() == prompt_ids(SHORT[0])
    assert batch.clean[0, start : start + 8].tolist() == spoken
    assert batch.clean[0, start + 8 :].unique().tolist() == [0]
    assert batch.next_token[0, start - 1 : start + 7].tolist() == spoken
    assert (batch.next_token[0] != NOT_SUPERVISED).sum() == 8
    assert batch.target[0].tolist() == [*spoken, *[EOS] * 40, *[NOT_SUPERVISED] * 48]
    assert batch.target[1].tolist() == answer_ids(LONG[1])


def test_noise_is_drawn_per_canvas_and_kept_as_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    batch = make_batch([LONG] * 200, clean_tokens=120, canvases=2, generator=generator)
    changed = (batch.canvas != batch.target).view(200, 2, 48).float().mean(-1)
    assert changed.mean().item() == pytest.approx(0.5, abs=0.04)  # a ratio uniform in 0..1
    assert changed.min() < 0.05 and changed.max() > 0.9
    assert torch.corrcoef(changed.T)[0, 1].abs() < 0.2  # one canvas's noise says nothing of the other's
    monkeypatch.setattr(objective, "LEAST_NOISE", 1.0)
    noisy = make_batch([LONG] * 50, clean_tokens=120, canvases=2, generator=generator).canvas
    assert noisy.min() == 0 and noisy.max() == len(VOCABULARY) - 1


def test_a_canvas_sees_itself_and_what_came_before_it(model: Transformer) -> None:
    masks = canvas_masks(model.config, torch.tensor([30, 70]), clean=130, length=96)
    full, sliding = masks[False], masks[True]
    assert full.shape == sliding.shape == (2, 96, 226)
    assert full[0, 0, :130].nonzero().flatten().tolist() == list(range(30))
    assert full[0, 95, :130].nonzero().flatten().tolist() == list(range(78))
    assert sliding[1, 0, :130].nonzero().flatten().tolist() == list(range(7, 70))  # the last 63
    assert sliding[1, 47].tolist() == sliding[1, 0].tolist()
    assert full[0, 50, 130:].nonzero().flatten().tolist() == list(range(48, 96))


def test_training_computes_the_logits_that_generation_computes(model: Transformer) -> None:
    """Prompt and first canvas clean, second canvas noisy: one training pass against the engine's cache."""
    engine = Engine(model, Tokenizer.load(PACKAGED), EngineConfig(), *read_generation_config(PACKAGED))
    batch = make_batch([LONG, SHORT], clean_tokens=120, canvases=2, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        _, cache = encode(model, batch.clean)
        masks = canvas_masks(model.config, batch.prompt_tokens, 120, 96)
        logits = denoise(model, batch.canvas, None, batch.prompt_tokens, cache, masks)[0]
    prompt, answer = prompt_ids(LONG[0]), answer_ids(LONG[1])
    for canvas in (0, 1):
        noisy = batch.canvas[0, 48 * canvas : 48 * (canvas + 1)].tolist()
        expected = engine.denoise_logits(prompt + answer[: 48 * canvas], noisy)
        torch.testing.assert_close(logits[48 * canvas : 48 * (canvas + 1)], expected, atol=1e-4, rtol=1e-4)


def test_an_untrained_model_is_as_good_as_guessing_and_every_weight_learns(model: Transformer) -> None:
    batch = make_batch([SHORT] * 4, clean_tokens=60, canvases=1, generator=torch.Generator().manual_seed(0))
    denoising, causal = losses(model, batch)
    guessing = torch.tensor(float(len(VOCABULARY))).log().item()
    assert denoising.item() == pytest.approx(guessing, abs=0.5)
    assert causal.item() == pytest.approx(guessing, abs=0.8)
    (denoising + causal).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    model.zero_grad()
    assert without == []
