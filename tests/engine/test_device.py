"""auto is what the machine has; what it lacks is named."""

from __future__ import annotations

import pytest
import torch

from dgbatch.engine import device as module
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


def test_kernels_are_for_weights_of_16_bits_on_ampere_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    gpu = torch.device("cuda")
    for capability, there in (((7, 5), False), ((8, 0), True), ((9, 0), True), ((12, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, own=capability: own)
        assert has_kernels(gpu, torch.bfloat16) == there
        assert has_kernels(gpu, torch.float16) == there
        assert not has_kernels(gpu, torch.float32)
        assert not has_kernels(torch.device("cpu"), torch.bfloat16)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert not has_kernels(gpu, torch.bfloat16)
