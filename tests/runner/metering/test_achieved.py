"""The floor under what a worker's device takes: known limits, or those that are measured when it starts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dgbatch import roofline
from dgbatch.records import EngineStats
from dgbatch.roofline import DEVICES, DIFFUSIONGEMMA_26B, Shape
from dgbatch.runner.metering.achieved import Floor


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr(Shape, "of", lambda config: DIFFUSIONGEMMA_26B)

    def ceilings() -> tuple[float, float]:
        raise AssertionError("a known device was measured")

    return SimpleNamespace(
        format="bf16", device_name="NVIDIA H200", ceilings=ceilings, model=SimpleNamespace(config=None)
    )


def test_the_floor_of_steps_is_that_of_their_mean(engine: SimpleNamespace) -> None:
    floor = Floor.of(engine)
    assert floor is not None
    step_s = roofline.seconds(roofline.denoise(DIFFUSIONGEMMA_26B, DEVICES[0], "bf16", 4, 1024))
    first = floor.add(EngineStats(steps=10, canvas_tiles=40, prefix_tokens=40 * 1024))
    assert first.floor_s == pytest.approx(10 * step_s)
    again = floor.add(EngineStats(steps=10, canvas_tiles=40, prefix_tokens=40 * 1024))
    assert again.floor_s == first.floor_s
    more = floor.add(EngineStats(steps=12, canvas_tiles=41, prefix_tokens=40 * 1024))
    half = roofline.seconds(roofline.denoise(DIFFUSIONGEMMA_26B, DEVICES[0], "bf16", 0.5, 0))
    assert more.floor_s == pytest.approx(first.floor_s + 2 * half)


def test_a_device_that_nobody_knows_is_measured(engine: SimpleNamespace) -> None:
    engine.device_name, engine.ceilings = "cpu", lambda: (1e10, 5e10)
    floor = Floor.of(engine)
    assert floor is not None
    assert (floor.device.bytes_per_s, floor.device.flops_per_s) == (1e10, {"bf16": 5e10})
    assert roofline.known("NVIDIA H200", "float32") is None and roofline.known("NVIDIA H100 80GB", "fp8") is DEVICES[1]


def test_without_a_model_or_a_format_or_memory_there_is_no_floor(engine: SimpleNamespace) -> None:
    def no_memory() -> None:
        raise RuntimeError("out of memory")

    engine.device_name, engine.ceilings = "a small one", no_memory
    assert Floor.of(engine) is None
    engine.format = "float16"
    assert Floor.of(engine) is None
    assert Floor.of(SimpleNamespace()) is None


def test_a_step_whose_canvases_are_not_counted_yet_is_looked_at_later(engine: SimpleNamespace) -> None:
    """The engine's thread counts one after the other, and another one reads."""
    floor, other = Floor.of(engine), Floor.of(engine)
    assert floor is not None and other is not None
    assert floor.add(EngineStats(steps=1)).floor_s == 0.0
    whole = EngineStats(steps=1, canvas_tiles=4, prefix_tokens=4096)
    assert floor.add(whole).floor_s == other.add(whole).floor_s > 0
