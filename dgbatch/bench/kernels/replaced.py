"""A kernel with other block sizes than its own, for the time of a call; and what was launched during one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any

from dgbatch.bench.kernels.candidates import CHOICE, Changes


@contextmanager
def replaced(operation: str, changes: Changes) -> Iterator[None]:
    """Inside, the kernel chooses what it would choose but for these changes. A graph captured inside keeps them."""
    module = import_module(f"dgbatch.engine.kernels.{operation}")
    constants = {name: value for name, value in changes.items() if name.isupper()}
    fields = {name: value for name, value in changes.items() if not name.isupper()}
    with _instead(module, **constants, **{CHOICE[operation]: _changed(getattr(module, CHOICE[operation]), fields)}):
        yield


def _changed(own: Callable[..., Any], fields: Mapping[str, int | None]) -> Callable[..., Any]:
    signature = inspect.signature(own)

    def choice(*arguments: Any) -> Any:
        now = own(*arguments)
        if isinstance(now, tuple):
            return now._replace(**fields)  # type: ignore[attr-defined]  # a named one
        given = signature.bind(*arguments).arguments
        whole, made = given["packed_rows" if "packed_rows" in given else "tile_rows"], replace(now, **fields)
        while whole % made.block_rows:  # on a tiny shape too, blocks divide a tile
            made = replace(made, block_rows=made.block_rows // 2)
        return made

    return choice


@contextmanager
def launched() -> Iterator[list[Any]]:
    """Triton's compiled programs, in the order of their launches."""
    from triton.runtime.jit import JITFunction

    programs: list[Any] = []
    run = JITFunction.run

    def kept(kernel: Any, *arguments: Any, **options: Any) -> Any:
        programs.append(run(kernel, *arguments, **options))
        return programs[-1]

    with _instead(JITFunction, run=kept):
        yield programs


def facts(program: Any) -> dict[str, Any]:
    """What a program that ran needs of a multiprocessor; None for what this Triton does not say."""
    known = getattr(program, "metadata", None)
    return {
        "kernel": getattr(known, "name", None),
        "warps": getattr(known, "num_warps", None),
        "registers": getattr(program, "n_regs", None),
        "spilled_words": getattr(program, "n_spills", None),
        "shared": getattr(known, "shared", None),
    }


@contextmanager
def _instead(owner: Any, **values: Any) -> Iterator[None]:
    """Its attributes are these; afterwards what they were. AttributeError where it has none of that name."""
    were = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in were.items():
            setattr(owner, name, value)
