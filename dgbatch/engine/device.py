"""Which device an engine runs on, and in which numbers."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from dgbatch.errors import CheckpointError

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """auto takes a GPU where there is one. Raises CheckpointError for a device this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"device {name!r} was asked for, but torch sees no CUDA GPU. Use device auto or cpu.")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """auto is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[name]


def has_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a whole step runs as our own kernels there.

    They are laid out for weights of 16 bits, and for Ampere (8.0) and later: Turing gives a program 64 KB to share.
    """
    if device.type != "cuda" or dtype.itemsize != 2 or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)
