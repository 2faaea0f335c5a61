"""Where a kernel is launched: on which architecture, or in Triton's interpreter."""

from __future__ import annotations

import os

import torch
from torch import Tensor

# The interpreter misreads bfloat16 (it has numpy's types): kernels take UPCAST=INTERPRETED and load as float32 then.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HOPPER, RTX = 90, 120


def architecture(tensor: Tensor) -> int:
    """90 for Hopper, 100 for data-centre Blackwell, 120 for RTX Blackwell; tensors on no GPU count as Hopper."""
    if tensor.device.type != "cuda":
        return HOPPER
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return 10 * major + minor


def shares_little(arch: int) -> bool:
    """Whether a program gets 99 KB of shared memory: on RTX cards of any age. Data-centre chips since Hopper give 227.

    A100 gives 163, of which the blocks made for 227 would fit; but its products keep all operands in registers, and
    those blocks spill.
    """
    return arch < HOPPER or arch >= RTX


def stages_of(x: Tensor, stages: int) -> int:
    """How many blocks to keep under way where `stages` of 2-byte elements fit: float32 blocks are twice as large."""
    return max(2, stages * 2 // x.element_size())
