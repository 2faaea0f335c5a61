"""An export holds all committed rows in the order of the plan, or it is not there; it replaces nobody else's file."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgbatch.errors import OutputError
from dgbatch.runner import export as exporting
from dgbatch.runner.export import EXPORTS, check_duckdb, export, write_duckdb
from dgbatch.runner.run_folder import Run
from tests.runner.conftest import MakeJob
from tests.runner.small_run import commit_all, new_run
from tests.runner.test_catalog import QUESTION, Rows, answer, finished, run

__all__ = ["run"]


def rows_of(target: Path, fmt: str) -> list[dict[str, object]]:
    if fmt == "parquet":
        return pq.read_table(target).to_pylist()
    if fmt == "jsonl":
        return [json.loads(line) for line in target.read_text().splitlines()]
    if fmt == "csv":
        with open(target, newline="") as file:
            return list(csv.DictReader(file))
    with duckdb.connect(str(target), read_only=True) as connection:
        return connection.sql("from completions").to_arrow_table().to_pylist()


@pytest.mark.parametrize("fmt", EXPORTS)
def test_an_export_holds_all_rows_in_plan_order(run: Run, tmp_path: Path, fmt: str) -> None:
    target = tmp_path / "new" / f"it's {fmt}"
    assert export(finished(run), str(target), fmt) == 9
    rows = rows_of(target, fmt)
    assert [row["id"] for row in rows] == [f"r{n}" for n in range(10) if n != 5]
    assert list(rows[0]) == run.schemas.data.names
    if fmt == "csv":
        assert json.loads(str(rows[0]["rules"])) == {"equals_answer": True}
        assert json.loads(str(rows[0]["token_ids"])) == answer(run, "select token_ids from completions")[0][0]
    noise_keys = answer(run, "select noise_key from completions where id = 'r0'")
    assert [(int(str(rows[0]["noise_key"])),)] == noise_keys
    assert os.listdir(target.parent) == [target.name]


def test_an_exported_parquet_keeps_the_declared_columns(run: Run, tmp_path: Path) -> None:
    export(finished(run), str(tmp_path / "all.parquet"), "parquet")
    assert pq.read_schema(tmp_path / "all.parquet").equals(run.schemas.data)


def test_an_exported_parquet_gathers_small_shards_into_row_groups(
    make_job: MakeJob, some_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "ROW_GROUP_ROWS", 7)
    run = commit_all(new_run(make_job(some_rows(30), "input.id=id", "workers.shard_rows=2")))
    export(run, str(tmp_path / "all.parquet"), "parquet")
    footer = pq.ParquetFile(tmp_path / "all.parquet").metadata
    assert [footer.row_group(index).num_rows for index in range(footer.num_row_groups)] == [8, 8, 8, 6]


def test_an_exported_duckdb_holds_the_whole_run(run: Run, tmp_path: Path) -> None:
    export(finished(run), str(tmp_path / "run.duckdb"), "duckdb")
    with duckdb.connect(str(tmp_path / "run.duckdb"), read_only=True) as connection:
        assert connection.execute(QUESTION).fetchall() == [(9, 1.0)]
        assert connection.execute("select id from quarantine").fetchall() == [("r5",)]
        assert connection.execute("select count(*) from shards").fetchall() == [(3,)]
        assert connection.execute("select name, fingerprint from run").fetchall() == [("test", run.fingerprint)]


@pytest.mark.parametrize("fmt", EXPORTS)
def test_a_run_without_commits_can_be_exported(run: Run, tmp_path: Path, fmt: str) -> None:
    assert export(run, str(tmp_path / "none"), fmt) == 0
    assert rows_of(tmp_path / "none", fmt) == []


@pytest.mark.parametrize("fmt", EXPORTS)
def test_an_export_never_replaces_a_file(run: Run, tmp_path: Path, fmt: str) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(OutputError, match=r"mine exists\. Remove it, or choose another name"):
        export(run, str(tmp_path / "mine"), fmt)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_file_that_came_into_being_meanwhile_stays(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new" / "mine"
    writer = exporting._parquet_writer

    def slow_writer(run: Run, commits: object) -> Callable[[str], None]:
        write = writer(run, commits)  # type: ignore[arg-type]
        return lambda partial: (write(partial), target.write_text("mine"))[0]

    monkeypatch.setattr(exporting, "_parquet_writer", slow_writer)
    with pytest.raises(OutputError, match="came into being meanwhile"):
        export(finished(run), str(target), "parquet")
    assert [path.read_text() for path in target.parent.iterdir()] == ["mine"]


@pytest.mark.parametrize("fmt", EXPORTS)
def test_a_failed_export_leaves_no_half_file(run: Run, tmp_path: Path, fmt: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written: "):
        export(finished(run), str(tmp_path / "file" / "target"), fmt)
    record = run.commits()[1].data
    assert record is not None
    run.folder.at(record.name).write_bytes(b"nonsense")
    target = tmp_path / "new" / "target"
    with pytest.raises(OutputError, match=r"the run cannot be read: .* dgbatch verify lists what is damaged"):
        export(run, str(target), fmt)
    assert list(target.parent.iterdir()) == []


def test_an_unknown_format_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"'xlsx' is not known\. It is one of parquet, jsonl, csv, duckdb"):
        export(run, str(tmp_path / "x"), "xlsx")


def test_the_duckdb_file_of_a_run_is_renewed_and_anybody_elses_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.duckdb"
    write_duckdb(run, str(path))
    assert rows_of(path, "duckdb") == []
    write_duckdb(finished(run), str(path))
    assert len(rows_of(path, "duckdb")) == 9
    assert os.listdir(path.parent) == [path.name]
    with duckdb.connect(str(path)) as connection:
        connection.execute("create table notes as select 'mine' as note")
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"output\.duckdb: .* exists and is not of this run"):
        write_duckdb(run, str(path))
    assert path.read_bytes() == before
    (tmp_path / "text").write_text("mine")
    with pytest.raises(OutputError, match="is not of this run"):
        write_duckdb(run, str(tmp_path / "text"))


def test_a_column_that_the_duckdb_file_cannot_hold_is_refused_before_the_work(
    make_job: MakeJob, run: Run, tmp_path: Path
) -> None:
    check_duckdb(str(tmp_path / "run.duckdb"), run.fingerprint, run.schemas)
    odd = new_run(
        make_job(pa.table({"prompt": ["x"], "long": pa.array([15], pa.decimal256(50, 2))}), "output.path=odd")
    )
    with pytest.raises(
        OutputError, match=r"output\.duckdb: column 'long' is decimal256\(50, 2\), which DuckDB does not know"
    ):
        check_duckdb(str(tmp_path / "run.duckdb"), odd.fingerprint, odd.schemas)
    assert not (tmp_path / "run.duckdb").exists()


def test_many_small_shards_come_out_in_order(make_job: MakeJob, some_rows: Rows, tmp_path: Path) -> None:
    run = new_run(make_job(some_rows(300), "input.id=id", "workers.shard_rows=3"))
    commit_all(run)
    for fmt in EXPORTS:
        export(run, str(tmp_path / f"all.{fmt}"), fmt)
        assert [row["id"] for row in rows_of(tmp_path / f"all.{fmt}", fmt)] == [f"r{n}" for n in range(300)]
