"""How many canvases in flight: the knee of a curve that is measured as far as it rises."""

from __future__ import annotations

import pytest

from dgbatch.engine import calibration
from dgbatch.engine.calibration import REPEATS, WARM_UP, knee, measure
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.records import CurvePoint
from tests.engine import tiny


class Clock:
    """Time that only steps take."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps: list[int] = []

    def prepare(self, seconds: dict[int, float]):
        def step_of(size: int):
            def step() -> None:
                self.steps.append(size)
                self.now += seconds[size]

            return step

        return step_of


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(calibration.time, "perf_counter", lambda: clock.now)
    return clock


def points(*per_second: float) -> list[CurvePoint]:
    return [CurvePoint(2**index, 2**index / rate) for index, rate in enumerate(per_second)]


def test_the_knee_is_the_fewest_canvases_near_the_best_throughput() -> None:
    assert knee(points(100)) == 1
    assert knee(points(100, 180, 300, 390, 400, 395)) == 8
    assert knee(points(100, 95, 90)) == 1


def test_a_point_says_how_many_canvas_steps_it_does_a_second() -> None:
    assert CurvePoint(8, 0.02).per_second == pytest.approx(400)


def test_each_size_is_warmed_up_and_the_fastest_of_its_repeats_counts(clock: Clock) -> None:
    curve = measure(clock.prepare({1: 0.01, 2: 0.015}), (1, 2))
    assert curve == [CurvePoint(1, pytest.approx(0.01)), CurvePoint(2, pytest.approx(0.015))]
    assert clock.steps == [1] * (WARM_UP + REPEATS) + [2] * (WARM_UP + REPEATS)


def test_measuring_ends_when_two_larger_sizes_gained_nothing(clock: Clock) -> None:
    seconds = {1: 0.001, 2: 0.001, 4: 0.003, 8: 0.009, 16: 0.001}
    assert [point.canvases for point in measure(clock.prepare(seconds), seconds)] == [1, 2, 4, 8]


def test_measuring_ends_after_its_time_however_the_curve_rises(clock: Clock) -> None:
    seconds = dict.fromkeys((1, 2, 4), calibration.LIMIT_S / 10)
    assert [point.canvases for point in measure(clock.prepare(seconds), seconds)] == [1, 2]


def test_an_engine_that_is_left_to_choose_measures_and_gives_the_same_tokens(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    prompts = [tiny.prompt(number) for number in range(4)]
    auto = tiny.make_engine(tokenizer, model, canvases=None)
    assert auto.in_flight == knee(auto.curve)
    assert auto.stats.passes == 0  # what was measured is not work
    told = tiny.make_engine(tokenizer, model, canvases=3)
    assert (told.in_flight, told.curve) == (3, [])
    assert tiny.by_id(auto.generate(prompts)) == tiny.by_id(told.generate(prompts))


def test_sizes_that_the_memory_cannot_hold_are_not_tried(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dgbatch.engine.memory import _wanted

    tried: list[int] = []
    monkeypatch.setattr(
        "dgbatch.engine.engine.measure", lambda prepare, sizes, limit_s: tried.extend(sizes) or [CurvePoint(1, 1.0)]
    )
    budget = _wanted(model.config, model.embedding.dtype, 4, 4)[1]
    tiny.make_engine(tokenizer, model, canvases=None, kv_bytes=budget)
    assert tried == [1, 2, 4]
