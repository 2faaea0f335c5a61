"""Which prompts are in flight. Knows no torch.

A sequence that finishes leaves at once and the next prompt takes its place, so no canvas waits for another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dgbatch.records import Prompt


class Scheduler:
    """Hands out prompts while fewer than `canvases` are in flight."""

    def __init__(self, prompts: Iterable[Prompt | None], canvases: int):
        self._source: Iterator[Prompt | None] = iter(prompts)
        self._canvases = canvases
        self._in_flight = 0
        self._exhausted = False

    @property
    def done(self) -> bool:
        """No prompt is left and none is in flight."""
        return self._exhausted and not self._in_flight

    def admit(self) -> Iterator[Prompt]:
        """Prompts for the free places. A None from the source means: none ready now, go on with those in flight."""
        while self._in_flight < self._canvases and not self._exhausted:
            try:
                prompt = next(self._source)
            except StopIteration:
                self._exhausted = True
                return
            if prompt is None:
                return
            self._in_flight += 1
            yield prompt

    def retire(self) -> None:
        """One prompt left: completed or rejected."""
        self._in_flight -= 1
