"""Two engines over one model: one that steps by plain passes, and one that runs ahead as on a GPU, by the twins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from dgbatch.engine.engine import Engine
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.records import Completion, EngineConfig, Film, Prompt, Rejection, Settings
from tests.engine import tiny

# The loops add in different orders (a softmax by column tiles of 128 tokens, or whole), so entropies agree to the last
# digits of a float32; a frame's entropy, in 1/32 nat, may be rounded to the neighbour then.
NATS = 1e-5


def plain_and_ahead(
    model: Transformer,
    tokenizer: Tokenizer,
    own: Settings = tiny.SETTINGS,
    end_ids: tuple[int, ...] = (),
    depth: int = 1,
    **config: object,
) -> tuple[Engine, Engine]:
    plain, ahead = (
        Engine(model, tokenizer, EngineConfig(**config), own, list(end_ids), _ahead=kind)  # type: ignore[arg-type]
        for kind in (False, True)
    )
    ahead.loop.depth = depth  # type: ignore[union-attr]
    return plain, ahead


def assert_same(one: Iterable[object], other: Iterable[object]) -> dict[str, Completion]:
    """Two engines' results, in any order: the same rows, number for number. Returns the first one's, by id."""
    by_id, others = ({(each.id, each.sample): each for each in results} for results in (one, other))  # type: ignore
    assert by_id.keys() == others.keys()
    for key, each in by_id.items():
        same = others[key]
        if isinstance(each, Rejection):
            assert same == each
            continue
        assert same.mean_entropy == pytest.approx(each.mean_entropy, abs=NATS)
        assert replace(same, mean_entropy=each.mean_entropy) == each
        assert (same.film is None) == (each.film is None)
        if each.film:
            assert_same_film(each.film, same.film)
    return {each.id: each for each in by_id.values()}


def assert_same_film(one: Film, other: Film) -> None:
    assert (other.pieces, other.special) == (one.pieces, one.special)
    assert [canvas.noise for canvas in other.canvases] == [canvas.noise for canvas in one.canvases]
    for canvas, same in zip(one.canvases, other.canvases, strict=True):
        for frame, as_well in zip(canvas.frames, same.frames, strict=True):
            assert replace(as_well, entropy=frame.entropy) == frame
            assert max(abs(a - b) for a, b in zip(frame.entropy, as_well.entropy, strict=True)) <= 1


def counted(engine: Engine) -> dict[str, int]:
    """What is counted of an engine's work, whatever the order and the company in which it was done."""
    stats = engine.stats
    return {
        name: getattr(stats, name)
        for name in (
            "prompts", "rejections", "prompt_tokens", "tokens", "canvases", "denoise_steps", "cut_tokens",
            "canvas_tiles", "prefix_tokens",
        )
    }  # fmt: skip


def some(count: int = 9, **generation: object) -> list[Prompt]:
    return [tiny.prompt(number, **generation) for number in range(count)]  # type: ignore[arg-type]
