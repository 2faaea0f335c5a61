"""One step of all tiles: the forward passes it takes, begun at once, and what they decide, looked at later."""

from __future__ import annotations

from torch import Tensor

from dgbatch.engine.canvases import Canvases, Outcome
from dgbatch.engine.invariance import Rehearsal
from dgbatch.engine.passes import Passes
from dgbatch.engine.scheduler import Tile
from dgbatch.engine.sequence import Sequence


class Steps:
    """`start` hands a step's work to the device; `finish` waits for it. On a GPU the host is free in between."""

    def __init__(self, passes: Passes, canvases: Canvases):
        self.passes = passes
        self.canvases = canvases
        self.rehearsal = Rehearsal(passes.model, passes.quantum)
        self._begun: list[tuple[list[Sequence], Tensor]] = []

    def groups(self, tiles: list[Tile]) -> list[list[Tile]]:
        """The passes that these tiles take: one, or one for each where company would change a bit."""
        if not tiles:
            return []
        if all(map(self.rehearsal.holds, sorted(self.passes.rows(tiles)))):
            return [tiles]
        return [[tile] for tile in tiles]

    def start(self, tiles: list[Tile]) -> int:
        """Begin the passes of these tiles, one step; returns how many passes they take."""
        groups = self.groups(tiles)
        self._begun = []
        for group in groups:
            logits = self.passes.run(group)
            if logits is not None:
                self._begun.append(([tile.sequence for tile in group if not tile.causal], logits))
        return len(groups)

    def finish(self) -> list[tuple[Sequence, Outcome]]:
        """What the step decided about each of its canvases."""
        begun, self._begun = self._begun, []
        return [
            decided
            for sequences, logits in begun
            for decided in zip(sequences, self.canvases.step(sequences, logits), strict=True)
        ]
