"""What the driver looks for now and then among its workers: who stands still, and whose node is taken away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dgbatch.runner.actors import Actor

LOAD_TIMEOUT_S = 3600.0  # a place in the cluster, the download and the load of a large checkpoint
LOOK_S = 0.5  # between two looks for workers that stand still
DRAINED_S = 5.0  # between two looks for nodes that are being taken away


class Rounds:
    """Remembers when it looked last: most calls come too early, and find nobody."""

    def __init__(self, stall_timeout_s: float):
        self.stall_timeout_s = stall_timeout_s
        self._looked_at = self._asked_ray_at = 0.0

    def silent(self, actors: Iterable[Actor]) -> Iterator[tuple[Actor, str]]:
        """Workers that have shown no step for too long, and how to say it."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        for actor in list(actors):
            limit = self.stall_timeout_s if actor.report.loaded else LOAD_TIMEOUT_S
            if now - actor.moved_at > limit:
                doing = "made no step" if actor.report.loaded else "was not ready"
                yield actor, f"worker {actor.name} {doing} for {limit:g} s and was killed"

    def leaving(self, on_draining_nodes: Callable[[], Iterable[Actor]]) -> Iterable[Actor]:
        """Workers on nodes that Ray is about to take away, which it is asked for."""
        now = time.monotonic()
        if now - self._asked_ray_at < DRAINED_S:
            return ()
        self._asked_ray_at = now
        return on_draining_nodes()
