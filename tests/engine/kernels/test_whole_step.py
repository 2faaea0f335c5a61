"""All launches of a step together, as device_step/forward.py wires them: an engine with kernels and one with twins."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import pytest

from dgbatch.engine.device_step import forward
from dgbatch.engine.engine import Engine
from dgbatch.engine.kernels import operations
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.model.transformer import Transformer
from dgbatch.records import EngineConfig
from tests.engine import tiny
from tests.engine.device_step.loops import assert_same

KERNELS = {
    name: getattr(import_module(f"dgbatch.engine.kernels.{name}"), name)
    for name, operation in vars(operations).items()
    if hasattr(operation, "__wrapped__")
}


def small_model() -> Transformer:
    """A layer of each kind, in the smallest sizes that a product of kernels takes.

    Canvases of 32: a prompt is one tile then, and the interpreter takes a millisecond for every row of one.
    """
    text = {
        "head_dim": 16, "per_layer_config": {"1": {"head_dim": 32, "num_key_value_heads": 1}}, "intermediate_size": 32,
        "moe_intermediate_size": 16,
    }  # fmt: skip
    config = ModelConfig.from_dict(tiny.config_dict(**text))
    return tiny.random_model(replace(config, canvas_length=32, max_positions=128))


def test_an_engine_of_kernels_gives_the_rows_of_one_of_twins(
    tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two passes: two prompts and their first canvases; a settled canvas, the one after it, and another's next step."""
    model = small_model()
    prompts = [
        tiny.prompt(1, "a", max_denoising_steps=1, max_new_tokens=60),
        tiny.prompt(2, "b", max_denoising_steps=2, max_new_tokens=20, greedy=True, suppress_tokens=(20, 21)),
    ]
    calls = []

    def engine() -> Engine:
        made = Engine(model, tokenizer, EngineConfig(canvases=2), tiny.SETTINGS, [], _ahead=True)  # type: ignore
        made.loop.depth = 0  # type: ignore[union-attr]
        return made

    def counting(name: str):
        def call(*args: object) -> object:
            calls.append(name)
            return KERNELS[name](*args)

        return call

    twins = list(engine().generate(prompts))
    monkeypatch.setattr(forward, "op", SimpleNamespace(**{name: counting(name) for name in KERNELS}))
    own = engine()
    rows = assert_same(twins, own.generate(prompts))
    assert {*calls} == {*KERNELS}
    assert (own.stats.passes, own.stats.tiles) == (2, 7)
    assert (rows["row-1"].canvases, rows["row-2"].denoise_steps) == (2, 2)
