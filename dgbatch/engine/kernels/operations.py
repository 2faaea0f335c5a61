"""The operations of a whole denoising step. Callers use these names; the tensors' device decides what runs.

Kept out of the package's own names: importing kernels/linear.py would put the module where the function was.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any, TypeVar

from dgbatch.engine.kernels.reference import looking, products, rows, sampling, turns

Result = TypeVar("Result")


def by_device(twin: Callable[..., Result]) -> Callable[..., Result]:
    """`twin` where its first argument is on a CPU, else the kernel of that name from the module of that name."""

    @wraps(twin)
    def operation(*args: Any) -> Result:
        if args[0].device.type != "cuda":
            return twin(*args)
        module = import_module(f"dgbatch.engine.kernels.{twin.__name__}")  # triton is there where there is a GPU
        return getattr(module, twin.__name__)(*args)

    return operation


linear = by_device(products.linear)
gated = by_device(products.gated)
choose_experts = by_device(products.choose_experts)
group_rows = by_device(products.group_rows)
experts_up = by_device(products.experts_up)
experts_down = by_device(products.experts_down)
embed_rows = by_device(rows.embed_rows)
condition = by_device(rows.condition)
place_heads = by_device(rows.place_heads)
residual_norms = by_device(rows.residual_norms)
combine = by_device(rows.combine)
attend = by_device(looking.attend)
head = by_device(sampling.head)
decide = by_device(sampling.decide)
soft_rows = by_device(sampling.soft_rows)
plan_tiles = by_device(turns.plan_tiles)
advance = by_device(turns.advance)
