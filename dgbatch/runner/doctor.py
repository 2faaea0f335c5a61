"""What this machine has and lacks for dgbatch: one check per line, each with what to do about it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PYTHONS = ((3, 10), (3, 12))  # the oldest and the newest that are tested
DISK_BYTES = 5 * 10**9  # below this a run of any size is at risk
ENGINE_PACKAGES = ("safetensors", "tokenizers", "jinja2", "huggingface_hub")
CORE_PACKAGES = ("ray", "pyarrow", "duckdb", "pydantic")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `ok` is None where it is good to have and not needed."""

    name: str
    ok: bool | None
    found: str
    fix: str = ""


def examine(folder: str = ".") -> list[Check]:
    """Look at Python, packages, devices and the disk under `folder`. The import of torch takes a second or two."""
    return [python(), *packages(), *engine(), *machine(), disk(folder)]


def python() -> Check:
    found = platform.python_version()
    oldest, newest = PYTHONS
    if sys.version_info[:2] < oldest:
        return Check("python", False, found, f"Install Python {oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}.")
    if sys.version_info[:2] > newest:
        return Check("python", None, found, f"Tested up to {newest[0]}.{newest[1]}: use that if something fails.")
    return Check("python", True, found)


def packages() -> list[Check]:
    return [_package(name, "pip install dgbatch") for name in CORE_PACKAGES]


def engine() -> list[Check]:
    """torch and what the engine needs beside it, Triton, and the GPUs that torch sees."""
    fix = "pip install 'dgbatch[engine]'"
    checks = [_package(name, fix) for name in ENGINE_PACKAGES]
    torch = _import("torch")
    if torch is None:
        return [Check("torch", False, "not installed", f"{fix} (not needed to submit to a cluster)"), *checks]
    return [Check("torch", True, str(torch.__version__)), *checks, *gpus(torch), triton(torch)]


def gpus(torch: Any) -> list[Check]:
    if not torch.cuda.is_available():
        built = getattr(torch.version, "cuda", None)
        why = f"torch is built for CUDA {built} and sees no GPU" if built else "this torch is built for CPUs"
        return [Check("gpu", None, f"none: {why}", "The demo runs on CPUs; large checkpoints want a GPU with CUDA.")]
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        found.append(
            Check(f"gpu {index}", True, f"{name}, {_gb(free)} of {_gb(total)} free, CUDA {torch.version.cuda}")
        )
    return found


def triton(torch: Any) -> Check:
    found = _version("triton")
    if found is None and not torch.cuda.is_available():
        return Check("triton", None, "not installed", "Only GPUs use it: pip install 'dgbatch[kernels]'")
    if found is None:
        return Check("triton", False, "not installed", "pip install 'dgbatch[kernels]'")
    return Check("triton", True, found)


def machine() -> list[Check]:
    page = os.sysconf("SC_PAGE_SIZE")
    total = _gb(os.sysconf("SC_PHYS_PAGES") * page)
    free = f"{_gb(os.sysconf('SC_AVPHYS_PAGES') * page)} of " if "SC_AVPHYS_PAGES" in os.sysconf_names else ""
    return [
        Check("cpu", True, f"{os.cpu_count()} cores"),
        Check("memory", True, f"{free}{total}{' free' if free else ''}"),
    ]


def disk(folder: str) -> Check:
    usage = shutil.disk_usage(folder)
    enough = usage.free >= DISK_BYTES
    where = os.path.abspath(folder)
    fix = "" if enough else "Free some space, or give output.path on another disk."
    return Check("disk", enough or None, f"{_gb(usage.free)} free under {where}", fix)


def _package(name: str, fix: str) -> Check:
    found = _version(name)
    return Check(name, found is not None, found or "not installed", "" if found else fix)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _import(name: str) -> Any:
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def _gb(size: float) -> str:
    return f"{size / 10**9:,.0f} GB"
