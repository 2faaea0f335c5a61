"""What takes part: something that lays out canvases after a prefix and then repeats one step, or one commit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dgbatch.bench.stopwatch import nothing

OURS, EAGER, COMPILED = "dgbatch", "transformers-eager", "transformers-compiled"


@dataclass(frozen=True, slots=True)
class Passes:
    """What is measured. No canvas ever settles, so each call does the same work again."""

    step: Callable[[], object]  # denoises every canvas once: model, sampler and all
    commit: Callable[[], object]  # encodes every canvas into the cache, as if it had settled
    rewind: Callable[[], object] = nothing  # ahead of a commit: the cache is as long as it was


class Contender(Protocol):
    name: str

    def prepare(self, canvases: int, prefix: int) -> Passes:
        """Everything at one size. Raises what it raises where it cannot: the cell is left out with the reason."""

    def release(self) -> None:
        """Give back all memory but the weights."""
