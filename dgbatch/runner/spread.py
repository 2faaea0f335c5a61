"""How long rows are, in denoising steps: a small histogram that each worker sends and the driver adds up. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import log2

PER_DOUBLING = 4  # buckets: 19 % wide each
MOST_CV2 = 4.0  # no more is believed: it is a few rows that say so
PARTS = 16  # of the way between two buckets, where it is summed over

Counts = tuple[tuple[int, int], ...]  # (bucket, rows)


class Spread:
    """Rows by their number of steps. A row that was rejected has none."""

    def __init__(self) -> None:
        self._rows: Counter[int] = Counter()

    def add_counts(self, counts: Counts) -> None:
        for bucket, rows in counts:
            self._rows[bucket] += rows

    def add(self, steps: int) -> None:
        self._rows[round(PER_DOUBLING * log2(steps)) + 1 if steps > 0 else 0] += 1

    @property
    def counts(self) -> Counts:
        """Also while another thread adds rows: a dict becomes a list in one go."""
        return tuple(sorted(self._rows.items()))

    @property
    def rows(self) -> int:
        return self._rows.total()

    @property
    def cv2(self) -> float:
        """Variance of the lengths by the square of their mean; 1 where they are spread as waiting times are."""
        return min(MOST_CV2, sum(length**2 * share for length, share in self._shares()) - 1)

    def longest_rest(self, flying: int, alone: float = 1.0) -> float:
        """What is left of the longest of so many rows in work, in mean lengths of a row.

        A row that is met at work is likely a long one: what is left of it has the density (share of the rows that are
        longer) / mean. As others end the device has less to do: a step of one row alone takes `alone` of a usual one.
        """
        total = before = ended = 0.0
        longer = 1.0
        for length, share in self._shares():
            part = (length - before) / PARTS
            for _ in range(PARTS if part else 0):
                middle = min(1.0, ended + longer * part / 2)
                slowness = alone + (1 - alone) * (1 - middle)
                total += part * slowness * (1 - middle**flying)
                ended += longer * part
            longer, before = longer - share, length
        return total

    def _shares(self) -> Iterable[tuple[float, float]]:
        """(length in mean lengths, share of the rows), the shortest first."""
        lengths = [(2 ** ((bucket - 1) / PER_DOUBLING) if bucket else 0.0, rows) for bucket, rows in self.counts]
        mean = sum(length * rows for length, rows in lengths) / self.rows
        return [(length / mean, rows / self.rows) for length, rows in lengths] if mean else [(1.0, 1.0)]
