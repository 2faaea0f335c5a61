"""What a step launches, and over which rows."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dgbatch.engine.device_step import forward
from dgbatch.engine.device_step.ahead import AheadLoop
from dgbatch.engine.engine import Engine
from dgbatch.engine.kernels import operations
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.records import EngineConfig
from tests.engine import tiny

ALL = {name: operation for name, operation in vars(operations).items() if hasattr(operation, "__wrapped__")}
CALLS = list[tuple[str, tuple[Any, ...]]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> CALLS:
    """Every operation of a step with its arguments."""
    made: CALLS = []

    def watched(name: str) -> Any:
        def call(*args: Any) -> Any:
            made.append((name, args))
            return ALL[name](*args)

        return call

    monkeypatch.setattr(forward, "op", SimpleNamespace(**{name: watched(name) for name in ALL}))
    return made


def loop_of(model: Transformer, tokenizer: Tokenizer, canvases: int) -> AheadLoop:
    engine = Engine(model, tokenizer, EngineConfig(canvases=canvases), tiny.SETTINGS, [], _ahead=True)
    assert isinstance(engine.loop, AheadLoop)
    return engine.loop


def test_a_layer_is_ten_operations_and_two_beside_them(model: Transformer, tokenizer: Tokenizer, calls: CALLS) -> None:
    loop_of(model, tokenizer, 2).graphs.run(2)
    layers = len(model.layers)
    of_each_layer = {
        "linear": 3, "place_heads": 1, "attend": 1, "residual_norms": 1, "gated": 1, "choose_experts": 1,
        "group_rows": 1, "experts_up": 1, "experts_down": 1, "combine": 1,
    }  # fmt: skip
    around = Counter(
        ["plan_tiles", "embed_rows", "gated", "linear", "condition", "head", "decide", "soft_rows", "advance"]
    )
    expected = around + Counter({name: count * layers for name, count in of_each_layer.items()})
    assert Counter(name for name, _ in calls) == expected
    assert [name for name, _ in calls][:2] == ["plan_tiles", "embed_rows"]
    assert [name for name, _ in calls][-4:] == ["head", "decide", "soft_rows", "advance"]


def test_of_clean_text_the_last_layer_computes_keys_and_values_alone(
    model: Transformer, tokenizer: Tokenizer, calls: CALLS
) -> None:
    loop = loop_of(model, tokenizer, 2)
    loop.graphs.run(2)
    everyone, canvases = (loop.state.tiles(2).spans[row, :2].data_ptr() for row in range(2))
    first = calls[: [name for name, _ in calls].index("combine") + 1]
    last = calls[len(first) : [name for name, _ in calls].index("head")]

    def spans(some: CALLS, name: str) -> list[int]:
        return [args[-1].data_ptr() for own, args in some if own == name]

    assert spans(first, "linear") == [canvases, everyone, everyone, everyone]  # the first is of self-conditioning
    assert spans(first, "attend") == [everyone]
    assert spans(last, "linear") == [everyone, canvases, canvases]
    for name in ("attend", "residual_norms", "gated", "choose_experts", "group_rows", "combine"):
        assert spans(last, name) == [canvases], name


def test_a_step_with_nobody_at_work_moves_nothing(model: Transformer, tokenizer: Tokenizer) -> None:
    loop = loop_of(model, tokenizer, 3)
    before = {name: tensor.clone() for name, tensor in tensors(loop).items()}
    for count in (1, 4):
        loop.graphs.run(count)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(loop).items())


def tensors(loop: AheadLoop) -> dict[str, torch.Tensor]:
    state = loop.state
    pools = {f"pool {index}": pool for index, pool in enumerate(state.pools)}
    return pools | {"arena": state.arena, "said": state.said, "soft": state.slots.soft}
