"""What a step said, on its way to the host."""

from __future__ import annotations

import pytest
import torch

from dgbatch.engine import phases
from dgbatch.engine.device_step import told
from dgbatch.engine.device_step.state import make_state
from dgbatch.engine.device_step.told import Saying, make_saying, moment
from dgbatch.engine.model.config import ModelConfig
from tests.engine import tiny

CONFIG = ModelConfig.from_dict(tiny.config_dict())


class Event:
    """A place in a stream, at a time in milliseconds."""

    def __init__(self, at: float):
        self.at = at

    def record(self, stream: object = None) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, later: Event) -> float:
        return later.at - self.at


def test_what_was_said_stays_as_it_was_when_the_step_was_over() -> None:
    state = make_state(CONFIG, torch.device("cpu"), torch.float32, 2, 4, (4, 4), ())
    state.slots.told[1, 3] = 5
    state.slots.frames[1, 2, 7] = 6
    saying = make_saying(state)
    saying.copy(state.said)
    state.said.zero_()  # the next step
    saying.wait()
    assert (saying.told[1, 3], saying.frames[1, 2, 7]) == (5, 6)


def between(before: tuple[float, float], after: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> float | None:
    """Two steps, each from when to when."""
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Event(0.0))
    sayings = []
    for began, ended in (before, after):
        pair = [phases.StreamEvent(torch.device("cuda")) for _ in range(2)]
        pair[0]._event, pair[1]._event = Event(began), Event(ended)  # type: ignore[assignment]
        sayings.append(Saying(*pair, torch.zeros(0), torch.zeros(0), torch.zeros(0)))
    return sayings[1].idle_s(sayings[0])


def test_a_gpu_is_idle_from_the_end_of_a_step_to_the_beginning_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    assert between((0.0, 10.0), (10.0, 20.0), monkeypatch) == 0.0
    assert between((0.0, 10.0), (14.0, 20.0), monkeypatch) == pytest.approx(0.004)


def test_a_first_step_waited_for_nobody_and_a_cpu_never_works_beside_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = moment(torch.device("cpu"))
    nothing = torch.zeros(0)
    assert Saying(cpu, cpu, nothing, nothing, nothing).idle_s(None) is None
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Event(0.0))
    gpu = told.moment(torch.device("cuda"))
    assert Saying(gpu, gpu, nothing, nothing, nothing).idle_s(None) == 0.0
