"""Which versions of what are installed here."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("dgbatch", "ray", "pyarrow", "duckdb", "torch", "triton", "tokenizers", "safetensors")


def versions() -> dict[str, str]:
    """Of what decides tokens and files, for run.json."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
