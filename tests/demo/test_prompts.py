from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dgbatch.demo import prompts
from dgbatch.demo.tasks import is_held_out


def test_the_packaged_prompts_are_what_the_command_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "prompts.parquet"
    monkeypatch.setattr(sys, "argv", ["prompts", "--out", str(out)])
    prompts.main()
    made, packaged = pq.ParquetFile(out), pq.ParquetFile(prompts.PROMPTS_PATH)
    assert made.read().equals(packaged.read())
    assert made.schema_arrow.equals(packaged.schema_arrow) and packaged.schema_arrow.equals(prompts.SCHEMA)
    assert capsys.readouterr().out == f"wrote 1000 prompts to {out}\n"


def test_a_thousand_prompts_in_four_row_groups() -> None:
    file = pq.ParquetFile(prompts.PROMPTS_PATH)
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [250] * 4
    table = file.read().to_pylist()
    assert [row["id"] for row in table] == [f"p{n:04d}" for n in range(1000)]
    assert Counter(row["task"] for row in table) == {"sudoku4": 400, "sudoku6": 250, "sort": 200, "add": 150}
    assert len({row["prompt"] for row in table}) == 1000
    assert Counter(row["task"] for row in table[:250]).keys() == prompts.ROWS.keys()  # shuffled


def test_no_packaged_prompt_is_ever_trained_on() -> None:
    assert all(is_held_out(prompt) for prompt in pq.read_table(prompts.PROMPTS_PATH)["prompt"].to_pylist())
