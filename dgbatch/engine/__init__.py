"""Our own block-diffusion engine: prompts in, completions out, on one device.

It has never heard of Ray, files of prompts or metrics. Importing the package itself costs nothing; `Engine`
pulls in torch when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dgbatch.engine.engine import Engine

__all__ = ["Engine"]


def __getattr__(name: str) -> Any:
    if name == "Engine":
        from dgbatch.engine.engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
