"""Speed of late, from running totals. The caller brings the clock."""

from __future__ import annotations

from collections import deque

WINDOW_S = 20.0  # long enough to be calm, short enough to follow a lost worker
STEPS_S = 2.0  # between two points of steps per canvas
POINTS = 60


class Rates:
    """Rows and tokens per second over the last moments."""

    def __init__(self, window_s: float = WINDOW_S):
        self.window_s = window_s
        self._seen: deque[tuple[float, int, int]] = deque()

    def add(self, now: float, rows: int, tokens: int) -> None:
        """Totals at this moment. One that fell, because a worker took its open rows with it, starts the window anew."""
        if self._seen and (rows < self._seen[-1][1] or tokens < self._seen[-1][2]):
            self._seen.clear()
        self._seen.append((now, rows, tokens))
        while len(self._seen) > 2 and self._seen[1][0] <= now - self.window_s:
            self._seen.popleft()

    @property
    def rows_per_s(self) -> float | None:
        return self._per_s(1)

    @property
    def tokens_per_s(self) -> float | None:
        return self._per_s(2)

    def _per_s(self, which: int) -> float | None:
        if len(self._seen) < 2:
            return None
        first, last = self._seen[0], self._seen[-1]
        seconds = last[0] - first[0]
        return (last[which] - first[which]) / seconds if seconds > 0 and last[which] > first[which] else None


class RecentSteps:
    """Denoising steps per canvas, moment by moment: a line that rises says that the prompts have become harder."""

    def __init__(self) -> None:
        self.points: deque[float] = deque(maxlen=POINTS)
        self._at = 0.0
        self._canvases = self._steps = 0

    def add(self, now: float, canvases: int, steps: int) -> None:
        """Totals at this moment."""
        if canvases < self._canvases or not self._at:
            self._at, self._canvases, self._steps = now, canvases, steps
        elif now - self._at >= STEPS_S and canvases > self._canvases:
            self.points.append((steps - self._steps) / (canvases - self._canvases))
            self._at, self._canvases, self._steps = now, canvases, steps
