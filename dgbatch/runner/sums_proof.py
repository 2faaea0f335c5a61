"""Whether the sums of a commit record are those of the rows in its files, as far as the rows tell it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from dgbatch.runner.sums import BOUNDS, Histogram

if TYPE_CHECKING:
    import pyarrow as pa

    from dgbatch.runner.commits import Commit


def against_sums(commit: Commit, table: pa.Table | None, kind: str) -> list[str]:
    """Where they differ from the rows of its data or quarantine file; the table is None where it has no such file."""
    sums = commit.sums
    if kind == "quarantine":
        codes = Counter([] if table is None else table.column("error_code").to_pylist())
        return _different("quarantined", dict(sums.quarantined), dict(codes))
    faults = [
        *_different("values of steps_per_canvas", sums.steps_per_canvas.count, commit.canvases),
        *_different("steps in steps_per_canvas", sums.steps_per_canvas.sum, commit.denoise_steps),
        *_different("values of row_duration_s", sums.row_duration_s.count, commit.ok),
    ]
    if sums.thinking_tokens > commit.tokens:
        faults.append(f"its sums say {sums.thinking_tokens} thinking_tokens, and it has {commit.tokens} tokens")
    if table is not None:
        pairs = zip(table.column("tokens").to_pylist(), table.column("denoise_steps").to_pylist(), strict=True)
        yields = Histogram.of(BOUNDS["tokens_per_forward"], (tokens / steps for tokens, steps in pairs if steps))
        faults += _different("tokens_per_forward", sums.tokens_per_forward, yields)
        if "revised_tokens" in table.column_names:
            revised = pc.sum(table.column("revised_tokens")).as_py() or 0
            faults += _different("revised_tokens", sums.revised_tokens, revised)
    return faults


def _different(name: str, said: object, found: object) -> list[str]:
    return [] if said == found else [f"its sums say {name} {said}, its files {found}"]
