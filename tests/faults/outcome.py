"""What every test of a fault asks in the end: is it all there, once, and the same as if nothing had happened?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from dgbatch.runner.run_folder import Run
from dgbatch.runner.verify import verify

# How often and when a row was tried is what faults may change; queue_s and the like are only there when asked for.
MAY_DIFFER = ("attempt", "attempts")


def table(run: str | Path, kind: str = "data") -> pa.Table:
    """All rows of data/ or quarantine/, as a plain glob finds them, in the order of their keys."""
    files = sorted(Path(run, kind).glob("part-*"))
    if not files:
        return pa.table({})
    tables = [pq.read_table(file) if file.suffix == ".parquet" else _arrow(file) for file in files]
    whole = pa.concat_tables(tables).sort_by([("id", "ascending"), ("sample", "ascending")])
    return whole.drop_columns([name for name in MAY_DIFFER if name in whole.column_names])


def _arrow(file: Path) -> pa.Table:
    with pa.ipc.open_file(file) as reader:
        return reader.read_all()


def keys(run: str | Path) -> Counter[tuple[str, int]]:
    """How often each id and sample is in data/ and quarantine/ together."""
    found: Counter[tuple[str, int]] = Counter()
    for kind in ("data", "quarantine"):
        for row in table(run, kind).to_pylist():
            found[row["id"], row["sample"]] += 1
    return found


def assert_nothing_lost(run: str | Path, ids: list[str], samples: int = 1) -> None:
    """Invariant 1, by id: what came out is what went in, each once; and the files are those that were committed."""
    assert keys(run) == Counter((name, sample) for name in ids for sample in range(samples))
    assert Path(run, "_SUCCESS").exists()
    proof = verify(Run.open(str(run)))
    assert proof.holds, proof


def assert_same_rows(run: str | Path, faultless: str | Path) -> None:
    """Value for value, in data and in quarantine."""
    for kind in ("data", "quarantine"):
        assert table(run, kind).equals(table(faultless, kind)), f"{kind} of {run} differs from {faultless}"
