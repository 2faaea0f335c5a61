"""A tile's bits do not depend on its company: asked of the machine, and made sure of where the answer is no."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dgbatch.engine import kernels, sampler
from dgbatch.engine.engine import Engine
from dgbatch.engine.invariance import Rehearsal
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.sampler import Belief
from dgbatch.engine.scheduler import Tile
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.records import Completion
from tests.engine import tiny

ROWS = torch.arange(256.0)
PROMPTS = [tiny.prompt(number) for number in range(5)]


def nudged(x: Any) -> Any:
    """The next float of every number: one bit."""
    if isinstance(x, Belief):
        return Belief(nudged(x.p), nudged(x.entropy), x.argmax)
    return torch.nextafter(x, torch.tensor(99.0))


def rehearsal(
    model: Transformer, monkeypatch: pytest.MonkeyPatch, run: Callable[[int, int], list[Tensor]]
) -> Rehearsal:
    own = Rehearsal(model, 16)
    monkeypatch.setattr(own, "_run", run)
    return own


def test_what_treats_each_row_alone_is_the_same_in_company(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    own = rehearsal(model, monkeypatch, lambda first, end: [ROWS[first:end] * 3, ROWS[first:end] + 1])
    assert all(own.holds(rows) for rows in (16, 96, 32))


@pytest.mark.parametrize("odd", [32, 48, 128])
def test_one_bit_of_one_number_of_rows_is_noticed(
    model: Transformer, monkeypatch: pytest.MonkeyPatch, odd: int
) -> None:
    def run(first: int, end: int) -> list[Tensor]:
        other = ROWS[first:end].clone()
        if end - first == odd:
            other[odd - 1] = nudged(other[odd - 1])
        return [ROWS[first:end], other]

    own = rehearsal(model, monkeypatch, run)
    assert {rows: own.holds(rows) for rows in range(16, 160, 16)} == {rows: rows != odd for rows in range(16, 160, 16)}


def test_a_block_is_always_alone(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    own = rehearsal(model, monkeypatch, lambda first, end: [ROWS[first:end]])
    assert own.holds(16)


def test_each_number_of_rows_and_each_block_is_rehearsed_once(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    own = rehearsal(model, monkeypatch, lambda first, end: asked.append((first, end)) or [ROWS[first:end]])
    for rows in (32, 64, 32, 64, 48):
        assert own.holds(rows)
    blocks = [(0, 16), (16, 32), (0, 32), (32, 48), (48, 64), (0, 64), (0, 48)]
    assert asked == blocks


PARTS = ["embed_canvas", "embed_context", "attention", "layer", "logits", "believe", "soft_embeddings"]


@pytest.mark.parametrize("part", PARTS)
def test_one_bit_in_any_part_of_a_pass_is_noticed(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Each part of the model and of the sampler in turn computes 48 rows otherwise."""
    model = tiny.tiny_model()
    owner, name = {
        "attention": (model.layers[1].attention, "forward"),
        "layer": (model.layers[0], "forward"),
        "believe": (sampler, "believe"),
    }.get(part, (model, part))
    exact = getattr(owner, name)

    def odd(x: Tensor, *rest: Any) -> Any:
        out = exact(x, *rest)
        return nudged(out) if len(x) == 48 else out

    own = Rehearsal(model, 16)
    before = {rows: own.holds(rows) for rows in (32, 48, 64)}
    monkeypatch.setattr(owner, name, odd)
    assert not Rehearsal(model, 16).holds(48)
    monkeypatch.setattr(owner, name, exact)
    assert {rows: Rehearsal(model, 16).holds(rows) for rows in before} == before


@torch.inference_mode()
def test_the_rows_of_a_rehearsal_are_all_different_and_of_both_modes(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    exact = model.run_layers

    def watching(x: Tensor, positions: Tensor, causal: Tensor, *rest: Any, **more: Any) -> Tensor:
        seen.append(causal)
        return exact(x, positions, causal, *rest, **more)

    monkeypatch.setattr(model, "run_layers", watching)
    outs = Rehearsal(model, 16)._run(0, 32)
    assert seen[0].any() and not seen[0].all()
    assert all(len(out) == 32 for out in outs)
    shapes = [tuple(out.shape[1:]) for out in outs]
    hidden, vocab = model.config.hidden, model.config.vocab_size
    kv = [(kind.kv_heads, kind.head_dim) for kind in model.config.layers for _ in range(2)]
    assert shapes == [(hidden,), *kv, (hidden,), (vocab,), (vocab,), (), (hidden,)]
    assert len(outs[0].unique(dim=0)) == 32


def record_passes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[list[Tile]]:
    exact, passes = engine.passes.run, []
    monkeypatch.setattr(engine.passes, "run", lambda tiles: passes.append(list(tiles)) or exact(tiles))
    return passes


def completions(engine: Engine) -> dict[str, Completion]:
    return tiny.by_id(engine.generate(PROMPTS))


def ragged_model() -> Transformer:
    """A canvas of 20: two blocks of 16."""
    return tiny.random_model(ModelConfig.from_dict(tiny.config_dict() | {"canvas_length": 20}))


@pytest.mark.parametrize(
    ("build", "odd"),
    [
        (tiny.tiny_model, lambda rows: rows > 16),
        (ragged_model, lambda rows: rows == 32),
        (ragged_model, lambda rows: rows > 32),
    ],
    ids=["all but one block", "a canvas alone", "all but a canvas alone"],
)
def test_a_model_that_mixes_rows_runs_each_tile_alone_and_its_tokens_stay(
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    build: Callable[[], Transformer],
    odd: Callable[[int], bool],
) -> None:
    """A layer that computes some numbers of rows otherwise, by so much that other tokens come of it."""
    model = build()
    exact = model.layers[1].forward

    def mixing(x: Tensor, *rest: Any) -> Tensor:
        out = exact(x, *rest)
        return out * 1.5 if odd(len(x)) else out

    monkeypatch.setattr(model.layers[1], "forward", mixing)
    alone = completions(tiny.make_engine(tokenizer, model, canvases=1))
    engine = tiny.make_engine(tokenizer, model, canvases=4)
    passes = record_passes(engine, monkeypatch)
    assert completions(engine) == alone
    assert {len(tiles) for tiles in passes} == {1}
    monkeypatch.setattr(engine.steps.rehearsal, "holds", lambda rows: True)
    assert completions(engine) != alone  # so the rehearsal was needed


def test_tiles_that_keep_their_bits_share_a_pass(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tiny.make_engine(tokenizer, model, canvases=3)
    monkeypatch.setattr(engine.steps.rehearsal, "holds", lambda rows: True)
    passes = record_passes(engine, monkeypatch)
    completions(engine)
    assert max(sum(not tile.causal for tile in tiles) for tiles in passes) == 3
    assert any(len({tile.causal for tile in tiles}) == 2 for tiles in passes)
    assert engine.stats.passes == len(passes) < engine.stats.tiles == sum(map(len, passes))


@pytest.mark.parametrize("wrong", [16, 32, 48, 112, 128])
def test_one_answer_of_no_sends_every_tile_of_a_pass_alone(monkeypatch: pytest.MonkeyPatch, wrong: int) -> None:
    """Of the rows of the pass (112 + 16), of its canvases (64), or of any tile: alone, it would come out otherwise."""
    engine = tiny.wordless(ragged_model(), canvases=2)
    tiles = tiny.fly(engine, [9] * 25, [9]).plan()
    monkeypatch.setattr(engine.steps.rehearsal, "holds", lambda rows: rows != wrong)
    together = wrong not in (16, 32, 64, 128)
    assert engine.steps.groups(tiles) == ([tiles] if together else [[tile] for tile in tiles])
    assert engine.steps.groups([]) == []


def test_many_experts_share_passes_too(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows meet those that chose the same expert: how many they are is the whole pass's doing."""
    many = tiny.make_engine(tokenizer, tiny.tiny_model(num_experts=12), canvases=4)
    passes = record_passes(many, monkeypatch)
    prompts = [tiny.prompt(number) for number in range(4)]
    alone = tiny.make_engine(tokenizer, many.model, canvases=1)
    assert tiny.by_id(many.generate(prompts)) == tiny.by_id(alone.generate(prompts))
    assert max(map(len, passes)) > 1


@pytest.mark.parametrize("what", ["more rows", "another place"])
def test_an_expert_that_computes_some_number_of_rows_otherwise_is_noticed(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """From 48 rows on, or in the last place of 48: passes of up to 32 rows may still be shared."""
    exact = kernels.experts

    def odd(x: Tensor, *rest: Any) -> Tensor:
        out = exact(x, *rest)
        if len(x) == 48:
            out[0 if what == "more rows" else -1] *= 1.5
        return out

    own = Rehearsal(tiny.tiny_model(), 16)
    assert own.holds(64)
    monkeypatch.setattr(kernels, "experts", odd)
    own = Rehearsal(own.model, 16)
    assert {rows: own.holds(rows) for rows in (64, 16, 32, 48)} == {64: False, 16: True, 32: True, 48: False}
