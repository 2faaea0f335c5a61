"""Every second of an engine is in one phase, told by a clock here, and on a GPU by the events of its stream."""

from __future__ import annotations

import pytest
import torch

from dgbatch.engine import phases
from dgbatch.engine.phases import Phases
from dgbatch.records import PHASES


class Clock:
    """Time that passes when it is told to; a GPU that is as far as it says."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


class Event:
    """`record` puts it behind the work that the stream has by then."""

    stream_at = 0.0  # when the device will be done with all it was given

    def __init__(self, clock: Clock):
        self.clock, self.at = clock, 0.0

    def record(self) -> None:
        self.at = max(self.clock.now, Event.stream_at)

    def synchronize(self) -> None:
        self.clock.now = max(self.clock.now, self.at)

    def elapsed_time(self, later: Event) -> float:
        return (later.at - self.at) * 1e3


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(Event, "stream_at", 0.0)
    monkeypatch.setattr(phases, "time", made)
    monkeypatch.setattr(phases, "StreamEvent", lambda device: Event(made))
    return made


def spent(measured: Phases) -> dict[str, float]:
    return {phase: pytest.approx(seconds) for phase, seconds in measured.seconds.items() if seconds}


def step(measured: Phases, clock: Clock, *, launch: float, host: float, forward: float, sample: float) -> None:
    """One step on a GPU: the host launches, does something else, launches the sampling and waits."""
    with measured.launching(0.25):
        Event.stream_at = clock.now + forward
        clock.passes(launch)
    with measured.of("tokenize"):
        clock.passes(host)
    with measured.deciding():
        Event.stream_at = max(clock.now, Event.stream_at) + sample
        clock.now = Event.stream_at


def test_on_a_cpu_the_clock_says_it_all(clock: Clock) -> None:
    measured = Phases(torch.device("cpu"))
    with measured.of("wait_input"):
        clock.passes(5)
    with measured.launching(0.25):
        clock.passes(8)
    with measured.of("tokenize"):
        clock.passes(1)
    with measured.of("wait_output"):
        clock.passes(2)
    with measured.deciding():
        clock.passes(3)
    assert spent(measured) == {
        "wait_input": 5, "prefill": 2, "denoise": 6, "tokenize": 1, "wait_output": 2, "sample": 3,
    }  # fmt: skip


def test_host_work_that_hides_behind_a_gpu_costs_nothing(clock: Clock) -> None:
    measured = Phases(torch.device("cuda"))
    step(measured, clock, launch=1, host=3, forward=10, sample=2)
    assert spent(measured) == {"prefill": 2.5, "denoise": 7.5, "sample": 2}


def test_of_host_work_that_a_gpu_waits_for_only_the_wait_counts(clock: Clock) -> None:
    measured = Phases(torch.device("cuda"))
    step(measured, clock, launch=1, host=9, forward=4, sample=2)
    assert spent(measured) == {"prefill": 1, "denoise": 3, "tokenize": 6, "sample": 2}


def test_every_second_is_in_one_phase(clock: Clock) -> None:
    measured = Phases(torch.device("cuda"))
    began = clock.now
    for launch, host, forward, sample in [(1, 3, 10, 2), (1, 9, 4, 2), (5, 0, 1, 0), (0, 0, 0, 0), (2, 4, 6, 1)]:
        step(measured, clock, launch=launch, host=host, forward=forward, sample=sample)
    assert sum(measured.seconds.values()) == pytest.approx(clock.now - began)
    assert set(measured.seconds) == set(PHASES)


def ahead(measured: Phases, clock: Clock, *, host: float, wait: float, idle_s: float | None, more: bool = True) -> None:
    """A turn of a host that runs ahead: it launches, does something else, and reads the step before."""
    measured.begins()
    with measured.of("tokenize"):
        clock.passes(host)
    clock.passes(wait)
    measured.done(0.25, idle_s, more)


def test_where_steps_overlap_what_the_host_does_costs_as_much_as_the_device_was_idle(clock: Clock) -> None:
    measured = Phases(torch.device("cuda"))
    ahead(measured, clock, host=3, wait=5, idle_s=0.0)
    assert spent(measured) == {"prefill": 2, "denoise": 6}
    ahead(measured, clock, host=3, wait=5, idle_s=1.0)
    assert spent(measured) == {"prefill": 3.75, "denoise": 11.25, "tokenize": 1}
    ahead(measured, clock, host=3, wait=0, idle_s=50.0)  # a part of it was before the host turned to anything
    assert spent(measured) == {"prefill": 3.75, "denoise": 11.25, "tokenize": 4}


def test_every_second_of_steps_that_overlap_is_in_one_phase(clock: Clock) -> None:
    measured = Phases(torch.device("cpu"))
    began = clock.now
    for host, wait, more in [(1, 3, True), (0, 2, True), (4, 0, False)]:
        ahead(measured, clock, host=host, wait=wait, idle_s=None, more=more)
    with measured.of("wait_input"):  # nothing is with the device: this is time of its own
        clock.passes(7)
    ahead(measured, clock, host=1, wait=2, idle_s=None, more=True)
    measured.stops()
    with measured.of("wait_output"):
        clock.passes(2)
    assert sum(measured.seconds.values()) == pytest.approx(clock.now - began)
    assert (measured.seconds["wait_input"], measured.seconds["wait_output"]) == (7, 2)


def test_a_consumer_that_raises_has_its_time_counted_too(clock: Clock) -> None:
    measured = Phases(torch.device("cpu"))

    def consume() -> None:
        with measured.of("wait_output"):
            clock.passes(4)
            raise KeyError

    with pytest.raises(KeyError):
        consume()
    assert spent(measured) == {"wait_output": 4}
