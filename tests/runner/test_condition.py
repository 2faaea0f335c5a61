"""input.where takes what SQL can say about one row and nothing else; ids that repeat are found among millions."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.errors import InputError
from dgbatch.runner import source
from dgbatch.runner.condition import Condition, IdHashes, _connection
from dgbatch.runner.plan import make_plan


@pytest.mark.parametrize(
    ("where", "passing"),
    [
        ("n > 2", [3, 4]),
        ("N > 2 -- a comment", [3, 4]),
        ("\"n\" = 1 or prompt like '%4%'", [1, 4]),
        ("n % 2 = 0 and answer <> '2'", [0, 4]),
        ("length(prompt) > 100 or n = 0", [0]),
        ("prompt = 'select random()' or n = 3", [3]),
        ("COLUMNS(*) IS NOT NULL", [0, 1, 2, 3, 4]),
        ("n", [1, 2, 3, 4]),
        ("true", [0, 1, 2, 3, 4]),
        ("null or n = 2", [2]),
    ],
)
def test_where_takes_any_sql_condition(make_job, some_rows, where, passing):
    spec = make_job(some_rows(5), f"input.where='{where.replace(chr(39), chr(39) * 2)}'")
    shards = make_plan(spec).shards
    assert [row["n"] for shard in shards for _, row in source.rows(shard, spec.input, ["n"])] == passing


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("n >", "Parser Error"),
        ("n > 1; drop table input", "Parser Error"),
        ("1 = 1); from (input", "1 = 1); from (input"),
        ("promt > 1", "the input has no column 'promt'. Did you mean 'prompt'?"),
        ("m > 1", "the input has no column 'm'. It has: id, prompt, answer, n."),
        ("sum(n) > 1", "aggregates"),
        ("random() < 0.5", "random gives another answer each time"),
        ("n < extract(year from now ())", "now gives another answer each time"),
        ("'2020-01-01' < current_date", "current_date gives another answer each time"),
        ("n in (select n from input)", "holds a subquery"),
        ("prompt::int > 1", "Conversion Error"),
        ("read_text('/etc/passwd') is null", "Error"),
        ("nosuchfunction(n)", "nosuchfunction"),
    ],
)
def test_where_that_cannot_work_is_refused(make_job, some_rows, where, says):
    spec = make_job(some_rows(5), "input.where='" + where.replace("'", "''") + "'")
    with pytest.raises(InputError) as caught:
        make_plan(spec)
    assert str(caught.value).startswith("input.where: ") and says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_where_reaches_no_file_and_no_python_variable(tmp_path):
    secret = pa.table({"n": [1]})  # a name that DuckDB would find, were it let
    (tmp_path / "x.csv").write_text("a\n1\n")
    connection = _connection()
    for query in (
        "from secret",
        f"from '{tmp_path}/x.csv'",
        f"copy (select 1) to '{tmp_path}/y.csv'",
        "install httpfs",
    ):
        with pytest.raises(Exception, match=r"disabled|does not exist|Permission"):
            connection.sql(query).fetchall()
    assert secret.num_rows == 1 and not (tmp_path / "y.csv").exists()


def test_where_reads_only_the_columns_it_names(make_job, some_rows):
    schema = make_plan(make_job(some_rows(1))).schema
    assert Condition("n > 3 and prompt <> ''", schema).columns == ["prompt", "n"]
    assert Condition("COLUMNS(*) > 3", schema).columns == schema.names
    assert Condition('"od""d" > 3', pa.schema([('od"d', pa.int64()), ("x", pa.int64())])).columns == ['od"d']


@given(st.lists(st.text(min_size=1, max_size=3), max_size=60))
def test_repeated_ids_are_counted_exactly(ids):
    hashes = IdHashes()
    for start in range(0, len(ids), 7):
        hashes.add(pa.array(ids[start : start + 7], pa.string()))
    repeated, extra = hashes.repeated()
    assert extra == len(ids) - len(set(ids))
    assert len(repeated) == len({text for text in ids if ids.count(text) > 1})
