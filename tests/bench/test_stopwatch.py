from __future__ import annotations

import time
from contextlib import nullcontext

import pytest
import torch

from dgbatch.bench.gpu import ceilings, pick, provenance
from dgbatch.bench.stopwatch import Turns, one_thread, times_ms
from dgbatch.engine.limits import best_s
from dgbatch.errors import BenchError
from tests.bench.fake_gpu import GPU, FakeGpu

CPU = torch.device("cpu")


def test_every_measured_call_is_one_time_and_what_comes_before_it_is_in_none():
    calls: list[str] = []

    def before() -> None:
        calls.append("before")
        time.sleep(0.02)

    def work() -> None:
        calls.append("work")
        time.sleep(0.002)

    times = times_ms(work, CPU, Turns(warm_ups=2, measured=3), before)
    assert len(times) == 3
    assert all(2 <= took < 20 for took in times)
    assert calls == ["before", "work"] * 5


def test_on_a_gpu_events_stand_around_the_work_alone_and_nobody_waits_in_between(monkeypatch):
    gpu = FakeGpu(monkeypatch)
    times = times_ms(gpu.work, GPU, Turns(warm_ups=1, measured=3), before=lambda: gpu.said.append("before"))
    assert times == [1.0, 1.0, 1.0]  # of two words a call
    assert gpu.said == ["before", "work"] + ["before", "event", "work", "event"] * 3 + ["wait"]


def test_limits_of_a_gpu_are_timed_by_its_own_events(monkeypatch):
    gpu = FakeGpu(monkeypatch)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    assert best_s(gpu.work, GPU, tries=2, least_s=0.004) == pytest.approx(0.001)  # a millisecond each
    assert gpu.said[-7:] == ["event", "work", "work", "work", "work", "event", "wait"]


def test_turns_are_as_many_as_the_report_promises():
    assert (Turns().warm_ups, Turns().measured) == (20, 50)


def test_a_cpu_works_in_one_thread_and_has_its_threads_again():
    threads = torch.get_num_threads()
    with one_thread(CPU):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU has what this asks for")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_an_error_with_a_way_out(name):
    with pytest.raises(BenchError, match=f"--device {name}: torch sees no CUDA GPU here; .* --device cpu --tiny"):
        pick(name)


@pytest.mark.parametrize("name", ["gpu", "mps", "meta"])
def test_a_device_that_nobody_knows_is_an_error(name):
    with pytest.raises(BenchError, match=f"--device {name}: known are auto, cpu, cuda and cuda:N"):
        pick(name)


def test_ceilings_are_those_of_a_computer(monkeypatch):
    monkeypatch.setattr("dgbatch.engine.limits.GEMM_SIZE", {"cpu": 64})
    monkeypatch.setattr("dgbatch.bench.gpu.COPIED_BYTES", {"cpu": 1 << 20})
    limits = ceilings(CPU, torch.float32, quick=True)
    assert 1e8 < limits.bytes_per_s < 1e13
    assert 1e8 < limits.flops_per_s["bf16"] < 1e14


def test_a_report_says_where_it_comes_from():
    told = provenance(CPU, "dgbatch bench kernels")
    assert told["driver"] is None  # a CPU has none
    assert told["versions"]["torch"] == torch.__version__
    assert told["versions"]["python"].startswith("3.")
    assert told["command"] == "dgbatch bench kernels"
    assert told["device"] == told["host"]["cpu"]
