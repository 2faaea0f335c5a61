"""The packaged prompts of the demo job: 1,000 held-out puzzles with their answers.

python -m dgbatch.demo.prompts [--out FILE]      # writes the same file every time
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dgbatch.demo.tasks import examples

PROMPTS_PATH = Path(__file__).parent / "prompts.parquet"
ROWS = {"sudoku4": 400, "sudoku6": 250, "sort": 200, "add": 150}
ROW_GROUP_ROWS = 250
SEED = 20261121
SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("id", "task", "prompt", "answer")])


def make_prompts() -> pa.Table:
    """1,000 rows (id, task, prompt, answer), the tasks shuffled together."""
    rows = [
        {"task": task, "prompt": prompt, "answer": answer}
        for task, count in ROWS.items()
        for prompt, answer in examples(task, SEED, count, held_out=True)
    ]
    order = np.random.default_rng(SEED).permutation(len(rows))
    return pa.Table.from_pylist([{"id": f"p{n:04d}", **rows[old]} for n, old in enumerate(order)], schema=SCHEMA)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dgbatch.demo.prompts", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PROMPTS_PATH)
    args = parser.parse_args()
    table = make_prompts()
    pq.write_table(table, args.out, row_group_size=ROW_GROUP_ROWS, compression="zstd")
    print(f"wrote {table.num_rows} prompts to {args.out}")


if __name__ == "__main__":
    main()
