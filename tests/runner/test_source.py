"""Shard -> rows: ids, ranges, input.where, and inputs that changed since they were planned."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgbatch.errors import InputError
from dgbatch.runner import source
from dgbatch.runner.plan import make_plan


def all_rows(spec, *columns: str) -> list:
    return [pair for shard in make_plan(spec).shards for pair in source.rows(shard, spec.input, columns)]


def test_rows_come_in_file_order_with_the_columns_asked_for(make_job, some_rows):
    spec = make_job(some_rows(5), "input.id=id", "workers.shard_rows=2", row_group_size=3)
    assert all_rows(spec, "n", "prompt")[3] == ("r3", {"n": 3, "prompt": "What is 3?"})
    assert all_rows(spec) == [(f"r{n}", {}) for n in range(5)]
    assert list(all_rows(spec, "prompt", "n")[0][1]) == ["prompt", "n"]


def test_rows_without_an_id_column_are_named_by_their_place(make_job, some_rows):
    spec = make_job(some_rows(5), "workers.shard_rows=2", row_group_size=3)
    names = ["in.parquet:0:0", "in.parquet:0:1", "in.parquet:0:2", "in.parquet:1:0", "in.parquet:1:1"]
    assert [row_id for row_id, _ in all_rows(spec, "n")] == names
    filtered = make_job(None, "input.where=n in (1, 4)", row_group_size=3)
    assert [row_id for row_id, _ in all_rows(filtered)] == [names[1], names[4]]
    assert [name for shard in make_plan(filtered).shards for name in source.ids(shard, filtered.input)] == [
        names[1],
        names[4],
    ]


def test_ids_by_place_are_known_without_reading(make_job, some_rows, tmp_path):
    spec = make_job(some_rows(3))
    (shard,) = make_plan(spec).shards
    (tmp_path / "in.parquet").unlink()
    assert source.ids(shard, spec.input) == ["in.parquet:0:0", "in.parquet:0:1", "in.parquet:0:2"]


@pytest.mark.parametrize("overrides", [(), ("input.id=id",), ("input.where=n >= 0",)])
def test_file_that_changed_after_planning_is_refused(make_job, some_rows, overrides):
    spec = make_job(some_rows(10), *overrides)
    (shard,) = make_plan(spec).shards
    make_job(some_rows(7), *overrides)
    with pytest.raises(InputError, match=r"shard 0 was planned with 10 rows and now has 7\. The file changed"):
        list(source.rows(shard, spec.input, ["n"]))


def test_batch_border_inside_a_shard_loses_nothing(make_job, some_rows):
    rows = some_rows(10_000)
    for overrides in (("input.id=id",), ("input.id=id", "input.where=n % 3 = 1")):
        spec = make_job(rows, "workers.shard_rows=3000", *overrides)
        expected = [f"r{n}" for n in range(10_000) if len(overrides) == 1 or n % 3 == 1]
        assert [row_id for row_id, _ in all_rows(spec)] == expected
        assert [name for shard in make_plan(spec).shards for name in source.ids(shard, spec.input)] == expected


def test_limit_with_ids_over_batches(make_job, some_rows):
    spec = make_job(some_rows(10_000), "input.id=id", "input.limit=5000")
    assert [row_id for row_id, _ in all_rows(spec)] == [f"r{n}" for n in range(5000)]


def test_times_of_nanoseconds_become_microseconds_and_are_never_rounded(make_job):
    exact = pa.array([1_577_836_800_000_001_000], pa.timestamp("ns"))
    spec = make_job(pa.table({"prompt": ["x"], "at": exact}))
    assert all_rows(spec, "at")[0][1]["at"] == datetime.datetime(2020, 1, 1, 0, 0, 0, 1)
    finer = pa.array([1_577_836_800_000_000_001], pa.timestamp("ns"))
    spec = make_job(pa.table({"prompt": ["x"], "at": finer}))
    assert all_rows(spec, "at")[0][1]["at"].equals(finer[0])


@pytest.mark.parametrize(
    ("kind", "nanoseconds", "expected"),
    [
        (pa.time64("ns"), 1000, datetime.time(0, 0, 0, 1)),
        (pa.duration("ns"), 1000, datetime.timedelta(microseconds=1)),
        (pa.timestamp("ns", "UTC"), 0, datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)),
    ],
    ids=["time", "duration", "zoned"],
)
def test_times_are_those_of_python_also_where_pandas_is_installed(make_job, kind, nanoseconds, expected):
    nested = pa.struct([("at", pa.large_list(kind))])
    table = pa.table(
        {
            "prompt": ["x"],
            "at": pa.array([nanoseconds], kind),
            "nested": pa.array([{"at": [nanoseconds, None]}], nested),
        }
    )
    ((_, row),) = all_rows(make_job(table), "at", "nested")
    assert (type(row["at"]), row["at"]) == (type(expected), expected)
    assert row["nested"] == {"at": [expected, None]} and type(row["nested"]["at"][0]) is type(expected)


NOT_UTF8 = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"\xff", None], pa.binary()).buffers())


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1_577_836_800_000_000_001, 0, None], pa.timestamp("ns")),
        pa.array([{"at": 1_577_836_800_000_000_001}, {"at": None}, None], pa.struct([("at", pa.timestamp("ns"))])),
        pa.array([10**7, 1, None], pa.date32()),
        pa.array([1, 1000, None], pa.time64("ns")),
        pa.array([1, 1000, None], pa.duration("ns")),
        pa.array([[1, 1000], [2000], None], pa.list_(pa.time64("ns"))),
        NOT_UTF8,
    ],
    ids=["nanoseconds", "nested", "year", "time", "duration", "list", "text"],
)
def test_a_value_that_python_lacks_is_carried_as_it_is(make_job, column):
    spec = make_job(pa.table({"prompt": ["x"] * 3, "odd": column}))
    carried = pa.array([row["odd"] for _, row in all_rows(spec, "odd")], column.type)
    assert carried.cast(pa.binary()).equals(column.cast(pa.binary())) if column is NOT_UTF8 else carried.equals(column)


def test_an_id_that_is_not_text_is_refused(make_job):
    with pytest.raises(InputError, match="column 'id' has an id that is not UTF-8 text"):
        make_plan(make_job(pa.table({"prompt": ["x"] * 3, "id": NOT_UTF8}), "input.id=id"))


def test_arrow_and_demo_inputs_have_roots(tmp_path, monkeypatch, some_rows):
    from dgbatch.runner.storage import location

    pq.write_table(some_rows(1), tmp_path / "prompts.parquet")
    monkeypatch.setattr(location, "DEMO", tmp_path / "prompts.parquet")
    assert location.files("demo") == ["prompts.parquet"] and location.root("demo") == str(tmp_path)
    monkeypatch.setattr(location, "DEMO", tmp_path / "gone.parquet")
    with pytest.raises(InputError, match="the packaged demo prompts are missing"):
        location.files("demo")
    assert location.root("/a/b*/c.parquet") == "/a" and location.root("*.parquet") == "."
