"""All launches of a step together, as device_step/forward.py wires them: an engine with kernels and one with twins."""

from __future__ import annotations

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
    """A layer of each kind, in the smallest sizes that a product of kernels takes."""
    text = {
        "head_dim": 16, "per_layer_config": {"1": {"head_dim": 32, "num_key_value_heads": 1}}, "intermediate_size": 32,
        "moe_intermediate_size": 16,
    }  # fmt: skip
    return tiny.random_model(ModelConfig.from_dict(tiny.config_dict(**text)))


def test_an_engine_of_kernels_gives_the_rows_of_one_of_twins(
    tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of several chunks, a canvas that settles while another is denoised, and the canvas after it."""
    model = small_model()
    prompts = [
        tiny.prompt(1, "a" * 7, max_denoising_steps=2, max_new_tokens=16),
        tiny.prompt(2, "b", max_denoising_steps=3, max_new_tokens=5, greedy=True, suppress_tokens=(20, 21)),
    ]
    calls = []

    def engine() -> Engine:
        return Engine(model, tokenizer, EngineConfig(canvases=2), tiny.SETTINGS, [tiny.EOS], _ahead=True)  # type: ignore

    def counting(name: str):
        def call(*args: object) -> object:
            calls.append(name)
            return KERNELS[name](*args)

        return call

    twins = list(engine().generate(prompts))
    monkeypatch.setattr(forward, "op", SimpleNamespace(**{name: counting(name) for name in KERNELS}))
    rows = assert_same(twins, engine().generate(prompts))
    assert {*calls} == {*KERNELS}
    assert rows["row-1"].canvases == 2
