"""What kernels are held to on a GPU: `just test-gpu`, or python3 -m pytest -c tests/gpu/pytest.ini tests/gpu.

DGBATCH_GPU_TESTS_ON_CPU=1 runs the same functions on a CPU, at the tiny shape and through the twins: it says nothing
about kernels, and that these tests would run where there is a GPU.
"""

from __future__ import annotations

import pytest
import torch

from tests.gpu.machine import DEVICE


@pytest.fixture(autouse=True)
def a_device_is_there() -> None:
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device; DGBATCH_GPU_TESTS_ON_CPU=1 runs these tests through the twins")


@pytest.fixture(autouse=True)
def products_of_torch_are_exact() -> None:
    """What our errors are held against does not round between parts of a sum."""
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


@pytest.fixture(autouse=True)
def memory_is_given_back() -> None:
    """The experts and the head of the real model are gigabytes each."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
