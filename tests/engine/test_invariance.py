"""A canvas's bits do not depend on its company: asked of the machine, and made sure of where the answer is no."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dgbatch.engine.engine import Engine
from dgbatch.engine.invariance import same_in_company
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.tokenizer import Tokenizer
from tests.engine import tiny

CANVASES = torch.arange(8.0)


def test_what_treats_each_canvas_alone_is_the_same_in_company() -> None:
    assert same_in_company(lambda first, end: [CANVASES[first:end] * 3, CANVASES[first:end] + 1], 8)


@pytest.mark.parametrize("odd", [2, 3, 8])
def test_one_bit_of_one_size_is_noticed(odd: int) -> None:
    def run(first: int, end: int) -> Sequence[Tensor]:
        other = CANVASES[first:end].clone()
        if end - first == odd:
            other[1] = torch.nextafter(other[1], torch.tensor(9.0))
        return [CANVASES[first:end], other]

    assert not same_in_company(run, 8)
    assert same_in_company(run, odd - 1)


def test_one_canvas_is_always_alone() -> None:
    assert same_in_company(lambda first, end: [torch.rand(end - first)], 1)


def engine_of(model: Transformer, tokenizer: Tokenizer, canvases: int) -> Engine:
    return tiny.make_engine(tokenizer, model, canvases=canvases)


def test_a_model_that_mixes_canvases_runs_them_one_by_one(tokenizer: Tokenizer) -> None:
    """Wide matrices and few rows: MKL sums 8 rows of 512 otherwise than 16. Where a machine does not, we do it here."""
    wide = tiny.tiny_model(intermediate_size=512)
    engine = engine_of(wide, tokenizer, 4)
    exact, passes = engine._canvas_logits, []

    def mixing(canvases: Tensor, soft: Tensor | None, caches: list) -> Tensor:
        passes.append(len(canvases))
        logits = exact(canvases, soft, caches)
        return logits if len(canvases) == 1 else torch.nextafter(logits, torch.tensor(99.0))

    engine._canvas_logits = mixing  # type: ignore[method-assign]
    assert not engine.together
    passes.clear()
    mixed = tiny.by_id(engine.generate([tiny.prompt(number) for number in range(4)]))
    assert set(passes) == {1}
    assert mixed == {
        key: one
        for number in range(4)
        for key, one in tiny.by_id(engine_of(wide, tokenizer, 1).generate([tiny.prompt(number)])).items()
    }


def test_canvases_that_keep_their_bits_share_a_pass(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(model, tokenizer, 3)
    monkeypatch.setattr("dgbatch.engine.engine.same_in_company", lambda run, canvases: True)
    exact, passes = engine._canvas_logits, []
    engine._canvas_logits = lambda canvases, *rest: (  # type: ignore[method-assign]
        passes.append(len(canvases)) or exact(canvases, *rest)
    )
    tiny.by_id(engine.generate([tiny.prompt(number) for number in range(3)]))
    assert set(passes) == {3}


@torch.inference_mode()
def test_the_rehearsal_is_made_of_all_that_decides_tokens(model: Transformer, tokenizer: Tokenizer) -> None:
    engine = engine_of(model, tokenizer, 3)
    logits, gumbel, entropy, soft = engine._rehearse(1, 4)
    canvas, vocab, hidden = model.config.canvas_length, model.config.vocab_size, model.config.hidden
    assert logits.shape == gumbel.shape == (3, canvas, vocab)
    assert entropy.shape == (3,)
    assert soft.shape == (3, canvas, hidden)
    assert len(logits.flatten(1).unique(dim=0)) == 3  # not three times the same canvas
    torch.testing.assert_close(logits[1:], engine._rehearse(2, 4)[0], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_a_first_step_in_the_company_of_later_ones_is_a_first_step(model: Transformer, tokenizer: Tokenizer) -> None:
    """A batch with later steps carries soft embeddings: zeros for a first step, which must change no bit."""
    engine = engine_of(model, tokenizer, 1)
    canvas = torch.arange(model.config.canvas_length)[None]
    zeros = torch.zeros(1, model.config.canvas_length, model.config.hidden)
    caches = [engine._cache(0)]
    assert torch.equal(engine._canvas_logits(canvas, zeros, caches), engine._canvas_logits(canvas, None, caches))
