"""Graphs without a GPU: what is asked of torch.cuda, in which order. That it then works, only tests/gpu can say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from dgbatch.engine.device_step.cuda_graph import Graphs
from dgbatch.engine.device_step.forward import Beside


class Cuda:
    """torch.cuda, as far as it is needed, writing down what happens."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.now = self.Stream("cuda", "current")

    def Stream(self, device: Any, name: str = "second") -> Any:
        cuda = self

        class Stream:
            def __init__(self) -> None:
                self.device = device

            def wait_stream(self, other: Any) -> None:
                cuda.log.append(f"{name} waits for {other}")

            def __str__(self) -> str:
                return name

        return Stream()

    def CUDAGraph(self) -> Any:
        cuda = self

        class Graph:
            def replay(self) -> None:
                cuda.log.append("replay")

        return Graph()

    def current_stream(self, device: Any = None) -> Any:
        return self.now

    def graph_pool_handle(self) -> str:
        return "pool"

    @contextmanager
    def device(self, device: Any) -> Iterator[None]:
        yield

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.now = self.now, stream
        yield
        self.now = before

    @contextmanager
    def graph(self, graph: Any, pool: str, stream: Any, capture_error_mode: str) -> Iterator[None]:
        assert (pool, capture_error_mode) == ("pool", "thread_local")
        self.log.append("capture begins")
        with self.stream(stream):
            yield
        self.log.append("capture ends")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda()
    monkeypatch.setattr(torch, "cuda", made)
    return made


def test_on_a_cpu_each_step_simply_runs() -> None:
    ran: list[int] = []
    graphs = Graphs(ran.append, torch.device("cpu"))
    for count in (2, 4, 2):
        graphs.run(count)
    assert ran == [2, 4, 2]


def test_the_first_step_of_a_count_runs_once_on_a_second_stream_and_is_captured_then(cuda: Cuda) -> None:
    """A step that ran twice would move every canvas on by two."""
    graphs = Graphs(lambda count: cuda.log.append(f"{count} tiles on {cuda.now}"), torch.device("cuda"))
    graphs.run(4)
    assert cuda.log == [
        "second waits for current", "4 tiles on second", "current waits for second",
        "capture begins", "4 tiles on second", "capture ends",
    ]  # fmt: skip
    cuda.log.clear()
    graphs.run(4)
    graphs.run(4)
    assert cuda.log == ["replay", "replay"]
    graphs.run(2)
    assert cuda.log.count("capture begins") == 1


def test_work_beside_begins_behind_what_was_launched_and_is_waited_for(cuda: Cuda) -> None:
    beside = Beside(torch.device("cuda"))
    tensor = torch.ones(2)

    def work() -> torch.Tensor:
        cuda.log.append(f"work on {cuda.now}")
        return tensor

    assert beside.run(work) is tensor
    cuda.log.append("else")
    beside.join()
    assert cuda.log == ["second waits for current", "work on second", "else", "current waits for second"]
