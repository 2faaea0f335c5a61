"""SQL of a job and of `dgbatch sql` sees its tables: no files, no network, no settings, no writing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dgbatch.errors import InputError, QueryError
from dgbatch.runner.catalog import sql
from dgbatch.runner.plan import make_plan
from tests.runner.small_run import commit_all, new_run

REACHING = [
    "from read_csv('{file}')",
    "from read_text('{file}')",
    "from read_blob('{file}')",
    "from read_parquet('{file}')",
    "from '{file}'",
    "from glob('{folder}/*')",
    "from read_csv('https://example.com/x.csv')",
    "from 's3://bucket/x.parquet'",
    "from sniff_csv('{file}')",
    "from parquet_metadata('{file}')",
    "select * from query('from ''{file}''')",
    "select * from query_table('{file}')",
]
STATEMENTS = [
    "attach '{folder}/x.db'",
    "copy (select 1) to '{folder}/stolen.csv'",
    "copy completions from '{file}'",
    "export database '{folder}/stolen'",
    "install httpfs",
    "load httpfs",
    "set enable_external_access = true",
    "pragma enable_external_access = true",
    "create secret (type s3)",
    "create table t as select 1",
    "call pragma_version()",
    "select 1; attach '{folder}/x.db'",
    "explain analyze copy (select 1) to '{folder}/stolen.csv'",
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a file that nobody may read."""
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "passwd.csv").write_text("user,hunter2\nroot,hunter2\n")
    return tmp_path / "place"


def at(text: str, place: Path) -> str:
    return text.format(file=place / "passwd.csv", folder=place)


@pytest.mark.parametrize("query", [*REACHING, *STATEMENTS])
def test_query_that_reaches_out_is_refused(make_job, some_rows, place, query):
    run = commit_all(new_run(make_job(some_rows(3))))
    with pytest.raises(QueryError) as caught:
        sql(run, at(query, place))
    assert "hunter2" not in str(caught.value)
    assert os.listdir(place) == ["passwd.csv"]
    assert sql(run, "select count(*) as n from completions").to_pylist() == [{"n": 3}]


@pytest.mark.parametrize(
    "where",
    [
        *(f"n in ({query})" for query in REACHING),
        *(f"exists ({query})" for query in REACHING),
        *STATEMENTS,
        *(f"true); {statement}; select (1" for statement in STATEMENTS),
        "true); create table t as from input where (true",
        "true); from input where (true",
        "read_text('{file}') is not null",
        "getenv('HOME') <> ''",
    ],
)
def test_condition_that_reaches_out_is_refused(make_job, some_rows, place, where):
    spec = make_job(some_rows(3), "input.where='" + at(where, place).replace("'", "''") + "'")
    with pytest.raises(InputError, match=r"input\.where: ") as caught:
        make_plan(spec)
    assert "hunter2" not in str(caught.value)
    assert os.listdir(place) == ["passwd.csv"]
