"""The device under a measurement: which one, its driver and versions, and what it can do at most right now."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from dgbatch.bench.measure import host
from dgbatch.bench.stopwatch import one_thread
from dgbatch.engine.limits import copy_bytes_per_s, gemm_flops_per_s
from dgbatch.errors import BenchError
from dgbatch.roofline import Device

PACKAGES = ("torch", "triton", "transformers")
COPIED_BYTES = {"cuda": 4 << 30, "cpu": 64 << 20}  # far beyond caches; on a GPU as long as many steps' expert reads
TRIES, LEAST_S = 7, 0.05


def pick(name: str) -> torch.device:
    """auto takes a GPU where there is one; a GPU becomes the current one. Raises BenchError for what is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BenchError(f"--device {name}: known are auto, cpu, cuda and cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BenchError(f"--device {name}: torch sees no CUDA GPU here; a dry run goes with --device cpu --tiny")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise BenchError(f"--device {name}: known are auto, cpu, cuda and cuda:N")
    return device


def ceilings(device: torch.device, dtype: torch.dtype, quick: bool = False) -> Device:
    """A copy, bytes read and written, and a product of random matrices: the best of a few tries.

    On a CPU the product is of the dtype that is run there, whatever its name here says.
    """
    tries, least_s = (2, 0.002) if quick else (TRIES, LEAST_S)
    values = COPIED_BYTES[device.type] // dtype.itemsize
    with torch.inference_mode(), one_thread(device):
        moved = copy_bytes_per_s(device, dtype, values, tries, least_s)
        flops = gemm_flops_per_s(device, dtype, tries, least_s)
    return Device("here", moved, {"bf16": flops})


def told_ceilings(limits: Device) -> dict[str, float]:
    return {"copy_tb_s": limits.bytes_per_s / 1e12, "bf16_tflop_s": limits.flops_per_s["bf16"] / 1e12}


def provenance(device: torch.device, command: str) -> dict[str, Any]:
    """What a number is worth nothing without."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else host()["cpu"],
        "driver": driver() if on_gpu else None,
        "versions": {"python": sys.version.split()[0], **{name: _version(name) for name in PACKAGES}},
        "cuda": torch.version.cuda if on_gpu else None,
        "command": command,
        "host": host(),
    }


def driver() -> str | None:
    """What nvidia-smi says; None without it."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split("\n")[0].strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
