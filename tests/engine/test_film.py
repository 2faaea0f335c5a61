"""Filming a prompt: every frame is what the step left, and no token of anybody changes for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dgbatch.engine import film, sampler
from dgbatch.engine.engine import Engine
from dgbatch.engine.film import NATS
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.sampler import Belief, Decision
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.records import Completion, Film, Prompt
from tests.engine import tiny

THOUGHTS = (tiny.CHANNEL_START, tiny.CHANNEL_END)  # a random model thinks at random
PROMPTS = [tiny.prompt(number, max_new_tokens=3 * tiny.CANVAS - 1, suppress_tokens=THOUGHTS) for number in range(6)]


def filmed(prompt: Prompt) -> Prompt:
    return replace(prompt, film=True)


@pytest.fixture(scope="module")
def engine(model: Transformer, tokenizer: Tokenizer) -> Engine:
    return tiny.make_engine(tokenizer, model, canvases=3)


@pytest.fixture(scope="module")
def unfilmed(engine: Engine) -> dict[str, Completion]:
    return tiny.by_id(engine.generate(PROMPTS))


def film_of(completion: Completion) -> Film:
    assert completion.film is not None
    return completion.film


def test_a_prompt_that_is_filmed_gets_the_very_tokens_alone_and_in_company(
    engine: Engine, unfilmed: dict[str, Completion]
) -> None:
    some = [filmed(prompt) if number % 2 else prompt for number, prompt in enumerate(PROMPTS)]
    together = tiny.by_id(engine.generate(some))
    assert together == unfilmed
    assert {id for id, one in together.items() if one.film} == {"row-1", "row-3", "row-5"}
    assert all(one.film is None for one in unfilmed.values())
    for prompt in some[1::2]:
        (alone,) = engine.generate([prompt])
        assert alone == unfilmed[prompt.id]
        assert film_of(alone) == film_of(together[prompt.id])


def test_frames_end_with_the_text_and_hold_what_the_completion_counts(engine: Engine) -> None:
    completions = tiny.by_id(engine.generate(map(filmed, PROMPTS)))
    for one in completions.values():
        told = film_of(one)
        assert len(told.canvases) == one.canvases
        assert sum(len(canvas.frames) for canvas in told.canvases) == one.denoise_steps
        settled = [token for canvas in told.canvases for token in canvas.frames[-1].argmax]
        assert tuple(settled[: one.tokens]) == one.token_ids
        assert "".join(told.pieces[token] for token in one.token_ids) == one.text
        revised = 0
        for position, token in enumerate(one.token_ids):
            canvas, place = divmod(position, tiny.CANVAS)
            accepted = [f.tokens[place] for f in told.canvases[canvas].frames if f.accepted[place]]
            revised += bool(accepted) and accepted[0] != token
        assert revised == one.revised_tokens
    assert sum(one.revised_tokens for one in completions.values()) > 0


def test_every_frame_is_what_its_step_decided(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[Belief, Decision]] = []
    exact = sampler.next_canvas

    def watching(belief: Belief, *rest: Tensor) -> Decision:
        decision = exact(belief, *rest)
        steps.append((belief, decision))
        return decision

    monkeypatch.setattr(sampler, "next_canvas", watching)
    (one,) = engine.generate([filmed(PROMPTS[3])])
    frames = [frame for canvas in film_of(one).canvases for frame in canvas.frames]
    for frame, (belief, decision) in zip(frames, steps, strict=True):
        assert list(frame.tokens) == decision.next_canvas[0].tolist()
        assert list(frame.argmax) == decision.argmax[0].tolist()
        assert list(frame.accepted) == decision.accepted[0].tolist()
        assert torch.allclose(torch.tensor(frame.entropy) / NATS, belief.entropy[0], atol=0.5 / NATS + 1e-6)


def test_a_canvas_begins_with_the_noise_that_its_first_step_sees(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    exact = engine.passes.run

    def watching(tiles: list[Any]) -> Tensor | None:
        seen.extend(
            engine.canvases.tokens[tile.sequence.slot].tolist()
            for tile in tiles
            if not tile.causal and tile.sequence.step == 0
        )
        return exact(tiles)

    monkeypatch.setattr(engine.passes, "run", watching)
    (one,) = engine.generate([filmed(PROMPTS[2])])
    assert [list(canvas.noise) for canvas in film_of(one).canvases] == seen


def test_of_a_long_answer_the_first_canvases_are_filmed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = engine.generate([filmed(PROMPTS[1])])
    monkeypatch.setattr(film, "CANVASES", 2)
    (short,) = engine.generate([filmed(PROMPTS[1])])
    assert (short, short.canvases) == (whole, 3)
    assert film_of(short).canvases == film_of(whole).canvases[:2]


def test_every_token_of_a_film_has_a_text_and_special_ones_are_named(engine: Engine) -> None:
    (one,) = engine.generate([filmed(PROMPTS[4])])
    told = film_of(one)
    shown = {token for canvas in told.canvases for token in canvas.noise}
    shown |= {token for c in told.canvases for frame in c.frames for token in (*frame.tokens, *frame.argmax)}
    assert set(told.pieces) == shown
    names = {id: token for token, id in tiny.VOCABULARY.items()}
    assert dict(told.pieces) == {id: names[id] for id in shown}
    assert told.special == {id for id in shown if names[id] in tiny.SPECIAL}
    assert told.special


def test_a_canvas_of_very_many_steps_is_not_filmed_nor_what_comes_after_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = engine.generate([filmed(PROMPTS[1])])
    first, second, *_ = (len(canvas.frames) for canvas in film_of(whole).canvases)
    for frames, canvases in ((first + second, 2), (first + second - 1, 1), (first, 1)):
        monkeypatch.setattr(film, "FRAMES", frames)
        (short,) = engine.generate([filmed(PROMPTS[1])])
        assert (short, film_of(short).canvases) == (whole, film_of(whole).canvases[:canvases])
    monkeypatch.setattr(film, "FRAMES", first - 1)
    (none,) = engine.generate([filmed(PROMPTS[1])])
    assert (none, none.film) == (whole, None)
