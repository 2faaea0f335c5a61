"""What a step of the 26B model launches: told by a step over tensors that have shapes and no values.

A wrapper that read a value, and so made the host wait for the device, would end such a step with an error.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from unittest import mock

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install 'dgbatch[kernels]'")

from dgbatch.bench.random_26b.model import REAL
from dgbatch.engine import kernels
from dgbatch.engine.device_step.forward import Step
from dgbatch.engine.device_step.state import make_state
from dgbatch.engine.device_step.weights import step_weights
from dgbatch.engine.kernels import operations
from dgbatch.engine.model.transformer import Layer, Transformer
from tests.engine.aot import recorded

NOWHERE = torch.device("meta")


def launched(layers: int, tiles: int) -> Counter[str]:
    """By kernel, in a step of the first so many layers: five sliding ones and then a full one, and again."""
    config = replace(REAL, layers=REAL.layers[:layers])
    with NOWHERE:
        model = Transformer(config).to(torch.bfloat16).requires_grad_(False)
    for layer in model.layers:
        assert isinstance(layer, Layer)
        layer.attention.prepare()
    with mock.patch.object(Transformer, "embed_scale", 53.0):  # which reads a value, once, for all steps
        weights = step_weights(model)
    state = make_state(config, NOWHERE, torch.bfloat16, 16, 4, (64, 64), (1,))
    names = [name for name, value in vars(operations).items() if hasattr(value, "__wrapped__")]
    with ExitStack() as replaced, recorded(90) as launches:
        for name in names:
            module = import_module(f"dgbatch.engine.kernels.{name}")
            replaced.enter_context(mock.patch.object(operations, name, getattr(module, name)))
        Step(config, weights, state, fold=True)(tiles)
    return Counter(one.kernel.__name__ for one in launches)


def test_a_layer_is_thirteen_launches_of_either_kind() -> None:
    four, five, six = (launched(layers, tiles=4).total() for layers in (4, 5, 6))
    assert (five - four, six - five) == (13, 13)
    assert four - 4 * 13 == 10  # around the layers
    stated = re.search(r"A layer is (\d+) launches", (Path(kernels.__file__).parent / "README.md").read_text())
    assert stated
    assert int(stated[1]) == 13


def test_a_step_launches_the_same_kernels_for_any_number_of_tiles() -> None:
    assert launched(6, tiles=1) == launched(6, tiles=24)
