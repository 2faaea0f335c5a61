"""The engine's loop that runs ahead: graphs, pinned memory, events and orders, from prompts to rows."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from dgbatch.engine.device_step.ahead import AheadLoop
from dgbatch.engine.engine import Engine
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.records import Completion, EngineConfig, Prompt
from tests.engine import tiny
from tests.gpu.machine import DEVICE, ON_CPU

pytestmark = pytest.mark.gpu

TEXT = {
    "hidden_size": 128, "head_dim": 32, "intermediate_size": 96, "moe_intermediate_size": 64, "num_experts": 8,
    "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2,
    "per_layer_config": {at: {"head_dim": 64, "num_key_value_heads": 1} for at in ("1", "3")},
}  # fmt: skip


# Made once, and by no fixture of the module: those come before the one that skips where no GPU is.
@cache
def made_tokenizer() -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        return Tokenizer.load(tiny.write_checkpoint(Path(folder)))


@cache
def made_model() -> Transformer:
    # On a CPU bfloat16 rows change with their company (docs/lab_log.md), which is no matter of ours.
    dtype = torch.float32 if ON_CPU else torch.bfloat16
    return tiny.random_model(ModelConfig.from_dict(tiny.config_dict(**TEXT))).to(dtype).to(DEVICE)


@cache
def made_alone() -> dict[tuple[str, int], Completion]:
    return rows(engine(made_model(), made_tokenizer(), depth=0, canvases=1))


@pytest.fixture
def tokenizer() -> Tokenizer:
    return made_tokenizer()


@pytest.fixture
def model() -> Transformer:
    return made_model()


@pytest.fixture
def alone() -> dict[tuple[str, int], Completion]:
    """Every prompt's row, by an engine with one canvas that never runs ahead."""
    return made_alone()


def engine(model: Transformer, tokenizer: Tokenizer, depth: int = 1, **config: object) -> Engine:
    ends = [tiny.VOCABULARY["a"], tiny.EOS]
    made = Engine(model, tokenizer, EngineConfig(**config), tiny.SETTINGS, ends, _ahead=True)  # type: ignore[arg-type]
    assert isinstance(made.loop, AheadLoop)
    made.loop.depth = depth
    return made


def prompts() -> list[Prompt]:
    """Short and long, of one canvas and of several, some that settle by themselves, one filmed, one sampled twice."""
    some = [
        tiny.prompt(number, "b" * (number * 11 % 50), max_new_tokens=8 + 7 * (number % 4), confidence=number % 3 * 2.0)
        for number in range(8)
    ]
    some[3] = replace(some[3], film=True)
    stopped = tiny.prompt(8, "c", max_new_tokens=40, stop=("b", "1", "z"))
    return [*some, stopped, replace(some[5], sample=1, noise_key=77), tiny.prompt(9, suppress_tokens=(9, 10, 11))]


def rows(made: Engine) -> dict[tuple[str, int], Completion]:
    done = [one for one in made.generate(prompts()) if isinstance(one, Completion)]
    assert len(done) == len(prompts())
    assert made.pages.full.reserved == made.pages.sliding.reserved == 0
    return {(one.id, one.sample): one for one in done}


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_rows_are_the_same_however_far_the_host_runs_ahead_and_in_any_company(
    model: Transformer, tokenizer: Tokenizer, alone: dict[tuple[str, int], Completion], depth: int
) -> None:
    made = engine(model, tokenizer, depth, canvases=3)
    first = rows(made)
    assert first == alone
    assert first["row-3", 0].film == alone["row-3", 0].film
    assert rows(made) == alone  # by replays alone, with prefixes in the cache
    assert len({one.token_ids for one in alone.values()}) > len(alone) // 2


@pytest.mark.parametrize("config", [{"fold": False}, {"prefill_tiles": 1}, {"share_prefixes": False}], ids=str)
def test_rows_are_the_same_however_tiles_share_passes_and_pages(
    model: Transformer, tokenizer: Tokenizer, alone: dict[tuple[str, int], Completion], config: dict[str, object]
) -> None:
    assert rows(engine(model, tokenizer, canvases=4, **config)) == alone


def test_every_second_is_in_one_phase(model: Transformer, tokenizer: Tokenizer) -> None:
    made = engine(model, tokenizer, canvases=3)
    rows(made)
    seconds = made.stats.seconds
    assert all(value >= 0 for value in seconds.values())
    assert seconds["denoise"] > 0 and seconds["prefill"] > 0
