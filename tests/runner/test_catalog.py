"""SQL over a run at any moment, and the run as one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from dgbatch.errors import OutputError, QueryError
from dgbatch.runner.catalog import sql
from dgbatch.runner.export import EXPORTS, export
from dgbatch.runner.run_folder import Run
from tests.runner.conftest import MakeJob
from tests.runner.small_run import commit_all, new_run

Rows = Callable[[int], pa.Table]
QUESTION = "select count(*), avg(accepted::int) from completions"


@pytest.fixture(params=["parquet", "arrow"])
def run(request: pytest.FixtureRequest, make_job: MakeJob, some_rows: Rows) -> Run:
    """Three shards of 4, 4 and 2 rows, none of them committed."""
    rules = ("accept.rules=[{equals: answer}]", "output.columns=[answer]")
    fmt = f"output.format={request.param}"
    return new_run(make_job(some_rows(10), "input.id=id", "workers.shard_rows=4", fmt, *rules))


def finished(run: Run) -> Run:
    return commit_all(run, bad=lambda row_id: row_id == "r5")


def answer(run: Run, query: str) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in sql(run, query).to_pylist()]


def test_a_run_without_commits_has_empty_tables_of_the_right_columns(run: Run) -> None:
    assert answer(run, QUESTION) == [(0, None)]
    assert sql(run, "select * from completions").column_names == run.schemas.data.names
    assert sql(run, "select * from quarantine").column_names == run.schemas.quarantine.names
    assert answer(run, "select count(*), count(*) filter (committed), count(attempt) from shards") == [(3, 0, 0)]


def test_a_run_can_be_asked_while_it_works_and_after(run: Run) -> None:
    commit_all(run, shards=run.plan.shards[:1])
    assert answer(run, QUESTION) == [(4, 1.0)]
    commit_all(run, bad=lambda row_id: row_id == "r5", shards=run.plan.shards[1:])
    assert answer(run, QUESTION) == [(9, 1.0)]
    assert answer(run, "select id, error_code, prompt from quarantine") == [("r5", "prompt_too_long", "What is 5?")]
    run.finalise()
    assert answer(run, QUESTION) == [(9, 1.0)]
    assert answer(run, "select rules.equals_answer, answer from completions where id = 'r7'") == [(True, "7")]


def test_shards_tell_the_plan_and_what_became_of_it(run: Run) -> None:
    commit_all(run, bad=lambda row_id: row_id == "r5", shards=run.plan.shards[1:2])
    asked = (
        'select "index", file, first_row, selected, committed, ok, quarantined, accepted, worker from shards order by 1'
    )
    assert answer(run, asked) == [
        (0, "in.parquet", 0, 4, False, None, None, None, None),
        (1, "in.parquet", 4, 4, True, 3, 1, 3, "w0"),
        (2, "in.parquet", 8, 2, False, None, None, None, None),
    ]


@pytest.mark.parametrize(
    "query",
    [
        "with a as (select 1 as x) select x from a",
        "from completions select id",
        "describe completions",
        "explain select 1",
        "summarize completions",
        "pivot completions on finish_reason using count(*)",
        "select id from completions; -- one statement",
    ],
)
def test_every_form_of_a_question_is_answered(run: Run, query: str) -> None:
    assert sql(finished(run), query).num_rows > 0


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("select nope from completions", 'Referenced column "nope" not found'),
        ("select * from completion", 'Did you mean "completions'),
        ("selec 1", "syntax error"),
        ("", "one SELECT is wanted, this is nothing"),
        ("select 1; select 2", "this is 2 statements"),
        ("create table a as select 1", "this is CREATE: 'create table a as select 1'"),
        ("drop view completions", "this is DROP"),
        ("set threads = 1", "this is SET"),
        ("install httpfs", "this is LOAD"),
        ("attach 'x.db'", "this is ATTACH"),
        ("copy completions to 'stolen.csv'", "this is COPY"),
        ("select * from read_csv('/etc/passwd')", "disabled by configuration"),
        ("select * from read_text('/etc/passwd')", "disabled by configuration"),
        ("select * from '/etc/passwd'", "does not exist"),
        ("select * from glob('/*')", "disabled by configuration"),
        ("select * from 'https://example.com/x.parquet'", "."),
        ("select * from spec", "does not exist"),
        ("select cast(text as date) from completions", "invalid date"),
    ],
)
def test_a_query_that_cannot_be_answered_is_explained(run: Run, query: str, said: str) -> None:
    with pytest.raises(QueryError) as refused:
        sql(finished(run), query)
    assert said in str(refused.value)
    assert refused.value.exit_code == 2


def test_sums_are_whole_numbers_as_long_as_they_fit(run: Run) -> None:
    assert str(sql(finished(run), "select sum(tokens) as n from completions").schema) == "n: int64"
    assert sql(run, "select sum(noise_key) as n from completions").schema.types == [pa.decimal128(38, 0)]


def test_a_column_that_duckdb_does_not_know_is_an_error_and_no_traceback(make_job: MakeJob) -> None:
    rows = pa.table({"prompt": ["x"], "long": pa.array([15], pa.decimal256(50, 2))})
    with pytest.raises(QueryError, match="Unsupported"):
        sql(new_run(make_job(rows, "output.columns=[long]")), QUESTION)


def test_half_floats_are_read_as_floats_in_sql_and_exports(make_job: MakeJob, tmp_path: Path) -> None:
    rows = pa.table({"prompt": ["x", "y"], "half": pa.array([1.5, 2.5], pa.float16())})
    run = finished(new_run(make_job(rows, "output.columns=[half]")))
    assert sql(run, "select sum(half) as total from completions where half > 2").to_pylist() == [{"total": 2.5}]
    for fmt in EXPORTS:
        export(run, str(tmp_path / f"half.{fmt}"), fmt)


def test_a_query_does_not_see_variables_of_the_program(run: Run) -> None:
    secrets = pa.table({"x": [1]})
    with pytest.raises(QueryError, match="secrets does not exist"):
        sql(run, "select * from secrets")
    assert secrets.num_rows == 1


def test_a_missing_file_is_named(run: Run) -> None:
    record = finished(run).commits()[0].data
    assert record is not None
    run.folder.delete(record.name)
    with pytest.raises(OutputError, match=rf"{record.name} is gone\. Restore it.* dgbatch verify {run.path}"):
        sql(run, QUESTION)


def test_a_damaged_file_is_an_error_and_no_traceback(run: Run) -> None:
    record = finished(run).commits()[0].data
    assert record is not None
    run.folder.at(record.name).write_bytes(b"nonsense")
    with pytest.raises(OutputError, match=f"cannot be read: .*part-.* dgbatch verify {run.path}"):
        sql(run, "select sum(tokens) from completions")


def test_columns_of_categories_are_read_across_shards(make_job: MakeJob, some_rows: Rows) -> None:
    colours = pa.array(["red", None, "blue", "red", "green", "x", "red", "y", "z", "red"]).dictionary_encode()
    rows = some_rows(10).append_column("colour", colours.cast(pa.dictionary(pa.int8(), pa.string())))
    run = finished(new_run(make_job(rows, "input.id=id", "workers.shard_rows=4", "output.columns=[colour]")))
    assert answer(run, "select colour, count(*) from completions where colour = 'red' group by 1") == [("red", 4)]
