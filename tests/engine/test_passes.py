"""One pass over any mix of tiles: what each tile gives alone, bit for bit, and nothing of the padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgbatch.engine import kernels
from dgbatch.engine.checkpoint import DEMO
from dgbatch.engine.engine import Engine
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.scheduler import Scheduler, Tile
from dgbatch.engine.sequence import Sequence
from dgbatch.engine.weights import load_transformer
from tests.engine import tiny

STEPS = 3  # denoising steps a canvas gets here before it settles
TINY = tiny.tiny_model()
ALONE: dict[tuple[int, int], Tensor] = {}  # by number and length of a text: what it gives alone
TEXTS = [list(range(9, 9 + length)) for length in (1, 7, 8, 21, 34)]  # of the tiny vocabulary


def ragged_model() -> Transformer:
    """A canvas of 20 is two blocks of 16, the second one mostly padding."""
    return tiny.random_model(
        ModelConfig.from_dict(tiny.config_dict(max_position_embeddings=160) | {"canvas_length": 20})
    )


def demo_model() -> Transformer:
    return load_transformer(Path(DEMO), dtype=torch.float32)


def gathered_model() -> Transformer:
    """Experts that compute as many rows as happen to choose them."""
    return tiny.tiny_model(num_experts=12)


MODELS = {"8": tiny.tiny_model, "20": ragged_model, "gathered": gathered_model, "demo": demo_model}


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def model(request: pytest.FixtureRequest) -> Transformer:
    return request.param()


def engine_of(model: Transformer, **config: object) -> Engine:
    """With poison in all its pages: what is read before it is written shows."""
    engine = tiny.wordless(model, tiny.settings(max_denoising_steps=STEPS), kv_bytes=1 << 24, **config)
    for pool in engine.kv.pools:
        pool.fill_(torch.nan)
    return engine


def run(engine: Engine, tiles: list[Tile]) -> Tensor | None:
    """As `Engine.generate` does: in one pass, or each alone where this machine would change a bit.

    returns: (batch, canvas, vocab), None without canvases
    """
    outs = [out for group in engine.steps.groups(tiles) if (out := engine.passes.run(group)) is not None]
    return torch.cat(outs)[:, : engine.model.config.canvas_length] if outs else None


def step(engine: Engine, scheduler: Scheduler) -> dict[Sequence, Tensor]:
    """One turn of the engine's loop; a canvas settles after its third step. Returns the canvases' logits."""
    tiles = scheduler.plan()
    sequences = [tile.sequence for tile in tiles if not tile.causal]
    logits = run(engine, tiles)
    if logits is None:
        return {}
    pad = engine.passes.padded(logits.shape[1]) - logits.shape[1]
    for one, outcome in zip(
        sequences, engine.canvases.step(sequences, torch.nn.functional.pad(logits, (0, 0, 0, pad))), strict=True
    ):
        one.stepped(outcome.unchanged)
        if one.step == STEPS:
            ids, _ = engine.canvases.settled(one)
            one.canvas, one.step, one.still = one.canvas + 1, 0, 0
            one.pending.append(tuple(ids))
            engine.canvases.lay([one])
    return dict(zip(sequences, logits, strict=True))


def denoised(engine: Engine, texts: list[list[int]], fold: bool = True, first: int = 0, steps: int = 4) -> list[Tensor]:
    """The logits of each text's first steps: (texts) of (steps, canvas, vocab)."""
    engine.defaults = tiny.settings(max_new_tokens=2 * engine.model.config.canvas_length, max_denoising_steps=STEPS)
    scheduler = tiny.fly(engine, *texts, fold=fold, first=first)
    seen: dict[Sequence, list[Tensor]] = {one: [] for one in scheduler.flight}
    while any(len(logits) < steps for logits in seen.values()):
        for one, logits in step(engine, scheduler).items():
            seen[one].append(logits)
            if len(seen[one]) == steps:
                scheduler.retire(one)
    assert scheduler.idle
    return [torch.stack(logits) for logits in seen.values()]


def long_text(model: Transformer, chunks: float = 3.4) -> list[int]:
    return [(7 * at + 3) % model.config.vocab_size for at in range(int(chunks * model.config.canvas_length))]


def at_once(model: Transformer, text: list[int], canvas: list[int]) -> Tensor:
    """A text and a canvas without pages, tiles or padding: masks written out over all rows."""
    past, rows = len(text), len(text) + len(canvas)
    row, key = torch.arange(rows)[:, None], torch.arange(rows)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        window = model.config.sliding_window if model.config.layers[layer].sliding else rows + 1
        causal = (key <= row) & (key > row - window)
        return kernels.attention(q, k, v, torch.where(row < past, causal, key > past - window))

    x = torch.cat([model.embed_context(torch.tensor(text)), model.embed_canvas(torch.tensor(canvas), None)])
    return model.logits(model.run_layers(x, torch.arange(rows), torch.arange(rows) < past, attend)[past:])


@pytest.mark.parametrize("chunks", [0.4, 1.0, 2.6])
def test_tiles_in_pages_give_what_the_whole_text_gives_at_once(model: Transformer, chunks: float) -> None:
    engine, text = engine_of(model), long_text(model, chunks)
    (logits,) = denoised(engine, [text], steps=1)
    (sequence,) = tiny.fly(engine, text).flight  # the same noise again
    exact = at_once(model, text, engine.canvases.tokens[sequence.slot].tolist())
    torch.testing.assert_close(logits[0], exact, atol=1e-4, rtol=0)


def test_several_chunks_and_their_canvas_in_one_pass_equal_pass_by_pass(model: Transformer) -> None:
    """And so do a settled canvas and the next one: its fourth step is the first of the second canvas."""
    text = long_text(model)
    together, apart = engine_of(model, prefill_tiles=4), engine_of(model, prefill_tiles=1)
    (folded,) = denoised(together, [text])
    (unfolded,) = denoised(apart, [text], fold=False)
    assert torch.equal(folded, unfolded)
    assert not folded.isnan().any()


def test_folding_is_one_pass(model: Transformer) -> None:
    """Without asking the machine: the values are near in any case."""
    text = long_text(model)
    folded, unfolded = engine_of(model, prefill_tiles=4), engine_of(model, prefill_tiles=1)
    scheduler = tiny.fly(folded, text)
    tiles = scheduler.plan()
    assert [tile.causal for tile in tiles] == [True] * 4 + [False]
    logits = folded.passes.run(tiles)
    assert logits is not None
    (exact,) = denoised(unfolded, [text], fold=False, steps=1)
    torch.testing.assert_close(logits[0, : model.config.canvas_length], exact[0], atol=1e-4, rtol=0)
    assert folded.passes.run([tile for tile in tiles if tile.causal]) is None


@pytest.mark.parametrize("prefill_tiles", [1, 2])
def test_sequences_that_share_passes_give_what_each_gives_alone(model: Transformer, prefill_tiles: int) -> None:
    """Chunks, first steps, later steps and settled canvases of five sequences, mixed as they come."""
    texts = [long_text(model, chunks)[skip:] for skip, chunks in enumerate((0.3, 1.7, 2.0, 3.4, 1.0))]
    engine = engine_of(model, canvases=5, prefill_tiles=prefill_tiles)
    together = denoised(engine, texts)
    for number, text in enumerate(texts):
        (alone,) = denoised(engine_of(model, canvases=1), [text], first=number)
        assert torch.equal(together[number], alone)


@settings(max_examples=15)
@given(
    chosen=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=4),
    prefill_tiles=st.integers(1, 3),
    fold=st.booleans(),
    share=st.booleans(),
)
def test_neither_company_nor_folding_nor_shared_prefixes_change_a_bit(
    chosen: list[list[int]], prefill_tiles: int, fold: bool, share: bool
) -> None:
    """All texts begin alike: with sharing, one computes what another reads, in the same pass too."""
    engine = engine_of(TINY, canvases=4, prefill_tiles=prefill_tiles, share_prefixes=share)
    together = denoised(engine, chosen, fold=fold)
    for number, text in enumerate(chosen):
        key = (number, len(text))
        if key not in ALONE:
            (ALONE[key],) = denoised(engine_of(TINY, canvases=1, share_prefixes=False), [text], first=number)
        assert torch.equal(together[number], ALONE[key])


@pytest.mark.parametrize("fold", [True, False])
def test_nothing_of_a_padding_row_reaches_a_real_one(
    model: Transformer, monkeypatch: pytest.MonkeyPatch, fold: bool
) -> None:
    """NaN in each padding row, before every layer."""
    texts = [long_text(model, chunks) for chunks in (0.3, 2.6)]
    exact = denoised(engine_of(model), texts, fold)
    engine, forward, real = engine_of(model), model.run_layers, []
    place, poisoned = engine.passes._place, []

    def remembering(tiles: list[Tile]) -> tuple[list[tuple[Tile, int]], int]:
        placed, rows = place(tiles)
        real[:] = [at for tile, first in placed for at in range(first, first + tile.rows)]
        return placed, rows

    def poisoning(x: Tensor, *rest: object) -> Tensor:
        garbage = torch.full_like(x, torch.nan)
        garbage[real] = x[real]
        poisoned.append(len(x) - len(real))
        return forward(garbage, *rest)

    monkeypatch.setattr(engine.steps, "groups", lambda tiles: [tiles])
    monkeypatch.setattr(engine.passes, "_place", remembering)
    monkeypatch.setattr(model, "run_layers", poisoning)
    for ours, clean in zip(denoised(engine, texts, fold), exact, strict=True):
        torch.testing.assert_close(ours, clean, atol=1e-4, rtol=0)
    assert sum(poisoned) > 0


def test_no_pass_reads_a_page_that_it_should_not(model: Transformer) -> None:
    """Other garbage in the pages, the same bits: poison of zeros, of NaN, and what other texts left behind."""
    text = long_text(model, 2.6)
    (exact,) = denoised(engine_of(model), [text])
    for poison in (0.0, 1e9):
        engine = engine_of(model)
        for pool in engine.kv.pools:
            pool.fill_(poison)
        assert torch.equal(denoised(engine, [text])[0], exact)
    used = engine_of(model, share_prefixes=False)
    denoised(used, [long_text(model, 3.4)[1:], long_text(model, 1.2)[2:]])
    assert torch.equal(denoised(used, [text])[0], exact)


@pytest.mark.parametrize(("rows", "padded"), [(1, 16), (16, 16), (17, 32), (48, 48)])
def test_tiles_are_padded_to_whole_blocks(rows: int, padded: int) -> None:
    assert engine_of(TINY).passes.padded(rows) == padded


def test_rows_are_those_of_the_pass_of_its_canvases_and_of_each_tile() -> None:
    engine = engine_of(ragged_model(), canvases=2, prefill_tiles=4)
    tiles = tiny.fly(engine, [9] * 25, [9]).plan()
    assert [tile.rows for tile in tiles] == [20, 5, 1, 20, 20]
    assert sorted(engine.passes.rows(tiles)) == [16, 32, 64, 32 + 16 + 16 + 64]
    assert sorted(engine.passes.rows(tiles[:2])) == [16, 32, 48]


def test_a_first_step_in_the_company_of_later_ones_is_a_first_step(model: Transformer) -> None:
    """A pass with later steps carries soft embeddings: zeros for a first step, which must change no bit."""
    engine = engine_of(model)
    scheduler = tiny.fly(engine, long_text(model, 0.4))
    tiles = scheduler.plan()
    first = engine.passes.run(tiles)
    scheduler.flight[0].step = 1  # as if another canvas were at a later step
    later = engine.passes.run(tiles)
    assert first is not None and later is not None
    assert torch.equal(first, later)
