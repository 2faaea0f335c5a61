"""Whether the sums of a commit record are those of the rows in its files, as far as the rows tell it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from dgbatch.runner.sums import BOUNDS, Histogram

if TYPE_CHECKING:
    import pyarrow as pa

    from dgbatch.runner.commits import Commit


def against_sums(commit: Commit, table: pa.Table | None, kind: str) -> list[str]:
    """Where they differ from the rows of its data or quarantine file; the table is None where it has no such file."""
    sums = commit.sums
    if kind == "quarantine":
        return _different("quarantined", dict(sums.quarantined), dict(Counter(_column(table, "error_code"))))
    tokens, steps = _column(table, "tokens"), _column(table, "denoise_steps")
    yields = Histogram.of(BOUNDS["tokens_per_forward"], (t / s for t, s in zip(tokens, steps, strict=True) if s))
    faults = [
        *_different("values of steps_per_canvas", sums.steps_per_canvas.count, sum(_column(table, "canvases"))),
        *_different("steps in steps_per_canvas", sums.steps_per_canvas.sum, sum(steps)),
        *_different("values of row_duration_s", sums.row_duration_s.count, len(tokens)),
        *_different("tokens_per_forward", sums.tokens_per_forward, yields),
    ]
    if sums.thinking_tokens > sum(tokens):
        faults.append(f"its sums say thinking_tokens {sums.thinking_tokens}, its files {sum(tokens)} tokens")
    if table is not None and "revised_tokens" in table.column_names:
        faults += _different("revised_tokens", sums.revised_tokens, sum(_column(table, "revised_tokens")))
    return faults


def _column(table: pa.Table | None, name: str) -> list:
    return [] if table is None else table.column(name).to_pylist()


def _different(name: str, said: object, found: object) -> list[str]:
    return [] if said == found else [f"its sums say {name} {said}, its files {found}"]
