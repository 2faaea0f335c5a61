"""A Ray to work in: quiet, at an address that is always given, and asking for a token unless told otherwise."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dgbatch.errors import RunFailed

OBJECT_STORE_BYTES = 100 * 2**20  # rows never travel through Ray: only receipts do


@contextmanager
def ray_session(address: str) -> Iterator[dict[str, float]]:
    """A Ray to work in, and its resources: this process's own, a new one on this machine, or the one at the address."""
    _set_ray_environment(address)
    import ray

    if ray.is_initialized():
        yield ray.cluster_resources()
        return
    new: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **(new if address == "local" else {}))
    except Exception as error:  # Ray raises many kinds, a plain Exception when this machine is too busy to start it
        raise RunFailed(
            f"workers.address: Ray did not start at {address!r}: {ray_reason(error).rstrip('.')}. "
            "See what is wrong with: dgbatch doctor"
        ) from error
    with _quiet(ray):  # until Ray is gone: its page about a dead process may come late
        try:
            yield ray.cluster_resources()
        finally:
            ray.shutdown()


def _set_ray_environment(address: str) -> None:
    """Before ray is imported: Ray's version must not decide whether it asks for a token, and it need not phone home.

    A program that has imported ray keeps the mode it has: Ray would tell a new one to its processes and not follow it.
    """
    token = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if "ray" in sys.modules:
        pass
    elif address == "local":
        if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token" and not token:
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # Ray's ports listen on all addresses
    else:
        known = token or Path("~/.ray/auth_token").expanduser().exists()
        os.environ.setdefault("RAY_AUTH_MODE", "token" if known else "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Ray prints a page on standard output, where --json answers go, for each process that dies; we have our own."""
    quiet, was = ray._private.worker, ray._private.worker.print_to_stdstream
    quiet.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        quiet.print_to_stdstream = was


def ray_reason(error: Exception) -> str:
    """What Ray has to say, without its advice: the text behind `exit detail`, or the last line."""
    text = str(getattr(error, "cause", None) or error).strip()
    _, found, detail = text.partition("Worker exit detail: ")
    return detail.split(" Some common causes")[0].split("\n")[0].strip() if found else text.splitlines()[-1].strip()
