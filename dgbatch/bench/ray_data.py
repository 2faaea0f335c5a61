"""The same work done by Ray Data: `read_parquet`, `map_batches`, `write_parquet`, with its checkpointing on.

Each row is rendered by the same Renderer and completed by the same engine as in our runner. Run as a process of its
own: python -m dgbatch.bench.ray_data ASKED.json prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from dgbatch.runner.prompts import Renderer

COLUMNS = ("id", "sample", "text", "finish_reason", "prompt_tokens", "tokens", "canvases", "denoise_steps", "token_ids",
           "noise_key")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """One run of Ray Data."""

    job: str  # the job file whose rows are made
    input: str  # a folder of Parquet files
    output: str
    checkpoints: str | None  # where Ray Data keeps what is done; None: checkpointing is off
    marks: str  # folder where the first new row leaves its time
    cpus: int
    batch_rows: int
    block_rows: int | None  # of what is written and checkpointed at once; None leaves that to Ray Data


def run(asked: Asked) -> dict[str, Any]:
    """Do the work in a Ray of its own. The seconds begin when Ray is up."""
    import ray
    from ray.data import DataContext
    from ray.data.checkpoint import CheckpointConfig

    ray.init(address="local", num_cpus=asked.cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    context = DataContext.get_current()
    context.enable_progress_bars = False
    if asked.checkpoints:
        context.checkpoint_config = CheckpointConfig("id", asked.checkpoints, delete_checkpoint_on_success=False)
    begun = time.monotonic()
    rows = ray.data.read_parquet(asked.input)
    if asked.block_rows:
        rows = rows.repartition(target_num_rows_per_block=asked.block_rows)
    done = rows.map_batches(completer(asked.job, asked.marks), batch_format="pyarrow", batch_size=asked.batch_rows)
    done.write_parquet(asked.output)
    seconds = time.monotonic() - begun
    ray.shutdown()
    return {"seconds": seconds}


def completer(job: str, marks: str) -> Callable[[pa.Table], pa.Table]:
    """A function over batches that Ray can send: it makes its renderer where it runs."""

    def completed(batch: pa.Table) -> pa.Table:
        from dgbatch.bench.ray_data import complete_batch

        return complete_batch(batch, job, marks)

    return completed


def complete_batch(batch: pa.Table, job: str, marks: str) -> pa.Table:
    """Render and complete each row; the columns that our runner writes, without what only it counts."""
    from dgbatch.bench.instant import complete, note_first_row

    if not batch.num_rows:
        return batch
    note_first_row(Path(marks))
    renderer = _renderer(job, tuple(batch.column_names))
    done = [complete(renderer.render(row["id"], row, 0)) for row in batch.to_pylist()]
    columns: dict[str, Any] = {name: [getattr(one, name) for one in done] for name in COLUMNS}
    columns["noise_key"] = pa.array(columns["noise_key"], pa.uint64())
    return pa.table({**columns, "topic": batch.column("topic")})


@lru_cache(maxsize=1)
def _renderer(job: str, columns: tuple[str, ...]) -> Renderer:
    from dgbatch.runner.prompts import Renderer
    from dgbatch.runner.spec import load_job

    return Renderer(load_job(job), columns)


def write_checkpoints(rows: Path, checkpoints: Path, stretch: int, left_one_in: int, each: bool) -> int:
    """What Ray Data would have kept of this input with each `left_one_in`-th stretch of rows missing: files with ids.

    One file per file of the input, or, with `each`, per stretch. Returns how many.
    """
    checkpoints.mkdir()
    count = 0
    for file in sorted(rows.iterdir()):
        ids = pq.read_table(file, columns=["id"])
        stretches = [
            ids.slice(start, stretch) for start in range(0, ids.num_rows, stretch) if start // stretch % left_one_in
        ]
        tables = stretches if each else [pa.concat_tables(stretches)] if stretches else []
        for table in tables:
            pq.write_table(table, checkpoints / f"{count:06d}.parquet")
            count += 1
    return count


if __name__ == "__main__":
    told = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps(run(Asked(**told))))
