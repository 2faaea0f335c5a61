"""Small inputs and jobs on them, for the tests of the job side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgbatch.runner.spec import JobSpec, load_job
from tests.runner.lone_worker import stop_workers

JOB = """\
version: 1
name: test
model: {checkpoint: demo}
input:
  path: in.parquet
prompt:
  template: "{{ prompt }}"
output:
  path: out
"""

MakeJob = Callable[..., JobSpec]


@pytest.fixture(autouse=True)
def _no_worker_outlives_its_test() -> Iterator[None]:
    yield
    stop_workers()


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """Write in.parquet (where rows are given) and job.yaml, and load the job with overrides."""

    def make(
        rows: pa.Table | None = None, *overrides: str, row_group_size: int | None = None, text: str = JOB
    ) -> JobSpec:
        if rows is not None:
            pq.write_table(rows, tmp_path / "in.parquet", row_group_size=row_group_size)
        (tmp_path / "job.yaml").write_text(text, encoding="utf-8")
        return load_job(str(tmp_path / "job.yaml"), overrides)

    return make


def prompts(count: int) -> pa.Table:
    """id r0.., prompt, answer, n."""
    numbers = range(count)
    return pa.table(
        {
            "id": [f"r{n}" for n in numbers],
            "prompt": [f"What is {n}?" for n in numbers],
            "answer": [str(n) for n in numbers],
            "n": list(numbers),
        }
    )


@pytest.fixture
def some_rows() -> Callable[[int], pa.Table]:
    return prompts
