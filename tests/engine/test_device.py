"""auto is what the machine has; what it lacks is named."""

from __future__ import annotations

import pytest
import torch

from dgbatch.engine import device
from dgbatch.engine.device import has_kernels, pick_device, pick_dtype
from dgbatch.errors import CheckpointError


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(CheckpointError, match="device 'cuda:1' was asked for"):
        pick_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda:1")


def test_auto_is_bfloat16_on_a_gpu_and_float32_on_a_cpu() -> None:
    assert pick_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert pick_dtype("float16", torch.device("cpu")) == torch.float16


def test_a_whole_step_runs_as_kernels_where_they_are_checked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """In 16 bits on Hopper and later, if triton can be imported; everywhere else there are the plain passes."""
    gpu, capability, triton = torch.device("cuda"), (9, 0), object()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(device, "find_spec", lambda name: {"triton": triton}[name])
    assert has_kernels(gpu, torch.bfloat16) and has_kernels(gpu, torch.float16)
    assert not has_kernels(gpu, torch.float32)
    assert not has_kernels(torch.device("cpu"), torch.bfloat16)
    capability = (12, 0)
    assert has_kernels(gpu, torch.bfloat16)
    capability = (8, 9)
    assert not has_kernels(gpu, torch.bfloat16)
    capability, triton = (9, 0), None
    assert not has_kernels(gpu, torch.bfloat16)
