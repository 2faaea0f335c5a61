"""The plan: every selected row in exactly one shard, and an input that is wrong is refused before anything starts."""

from __future__ import annotations

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgbatch.errors import InputError, JobError, LocationError
from dgbatch.runner import condition, formats, source
from dgbatch.runner.plan import Plan, Shard, cut, make_plan
from dgbatch.runner.spec import load_job


def refused(spec) -> str:
    with pytest.raises((InputError, JobError)) as caught:
        make_plan(spec)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3 and len(message) < 1200 and caught.value.exit_code == 2
    return message


def test_shards_never_cross_row_groups(make_job, some_rows):
    plan = make_plan(make_job(some_rows(25), "workers.shard_rows=4", "generation.samples=3", row_group_size=10))
    assert [(s.index, s.row_group, s.first_row, s.rows, s.selected) for s in plan.shards] == [
        (0, 0, 0, 4, 4), (1, 0, 4, 4, 4), (2, 0, 8, 2, 2),
        (3, 1, 0, 4, 4), (4, 1, 4, 4, 4), (5, 1, 8, 2, 2),
        (6, 2, 0, 4, 4), (7, 2, 4, 1, 1),
    ]  # fmt: skip
    assert {shard.file for shard in plan.shards} == {"in.parquet"}
    assert plan.rows == 25 and plan.expected == 75


def test_limit_takes_the_first_rows(make_job, some_rows):
    plan = make_plan(make_job(some_rows(25), "workers.shard_rows=4", "input.limit=11", row_group_size=10))
    assert [(s.row_group, s.first_row, s.rows) for s in plan.shards] == [(0, 0, 4), (0, 4, 4), (0, 8, 2), (1, 0, 1)]
    assert plan.rows == 11


def test_where_counts_only_rows_that_pass(make_job, some_rows):
    plan = make_plan(make_job(some_rows(25), "workers.shard_rows=2", "input.where=n % 4 = 0", row_group_size=10))
    assert [(s.row_group, s.first_row, s.rows, s.selected) for s in plan.shards] == [
        (0, 0, 5, 2), (0, 5, 4, 1), (1, 0, 7, 2), (2, 0, 5, 2)
    ]  # fmt: skip
    assert plan.rows == 7


def test_row_groups_without_a_passing_row_get_no_shard(make_job, some_rows):
    plan = make_plan(make_job(some_rows(30), "input.where=n >= 20", row_group_size=10))
    assert [(shard.index, shard.row_group) for shard in plan.shards] == [(0, 2)]


def test_parquet_without_id_and_where_is_planned_from_footers_alone(make_job, some_rows, monkeypatch):
    spec = make_job(some_rows(10))
    monkeypatch.setattr(formats, "batches", lambda *_: pytest.fail("read rows"))
    assert make_plan(spec).rows == 10


def test_same_input_gives_the_same_plan(make_job, some_rows):
    spec = make_job(some_rows(25), "input.id=id", "input.where=n > 3", row_group_size=10)
    assert make_plan(spec) == make_plan(spec)


def test_plan_survives_its_table(make_job, some_rows, tmp_path):
    plan = make_plan(make_job(some_rows(25), "input.where=n > 3", "generation.samples=2", row_group_size=10))
    pq.write_table(plan.to_table(), tmp_path / "plan.parquet")
    again = Plan.from_table(pq.read_table(tmp_path / "plan.parquet"))
    assert again == plan and again.schema.equals(plan.schema)
    assert plan.to_table().column_names == ["index", "file", "row_group", "first_row", "rows", "selected"]


def test_several_files_are_taken_in_the_order_of_their_names(make_job, some_rows, tmp_path):
    (tmp_path / "data" / "b").mkdir(parents=True)
    for name in ("z.parquet", "a.parquet", "b/c.parquet", ".hidden.parquet", "_SUCCESS", "README.md"):
        if name.endswith("parquet"):
            pq.write_table(some_rows(2), tmp_path / "data" / name)
        else:
            (tmp_path / "data" / name).write_text("x")
    names = ["a.parquet", "b/c.parquet", "z.parquet"]
    assert [shard.file for shard in make_plan(make_job(None, "input.path=data")).shards] == names
    assert [shard.file for shard in make_plan(make_job(None, "input.path=data/**/*.parquet")).shards] == names
    assert [shard.file for shard in make_plan(make_job(None, "input.path=data/[az].parquet")).shards] == names[::2]


def test_moved_input_is_the_same_input(make_job, some_rows, tmp_path):
    plan = make_plan(make_job(some_rows(5)))
    (tmp_path / "elsewhere").mkdir()
    os.rename(tmp_path / "in.parquet", tmp_path / "elsewhere" / "in.parquet")
    moved = make_plan(make_job(None, "input.path=elsewhere/in.parquet"))
    assert moved == plan


def test_missing_file(make_job):
    message = refused(make_job(None))
    assert "input.path: no such file or folder" in message and "in.parquet" in message


def test_missing_file_lists_its_neighbours(make_job, some_rows):
    make_job(some_rows(1))
    assert "Beside it are: in.parquet." in refused(make_job(None, "input.path=im.parquet"))
    assert "There is no folder" in refused(make_job(None, "input.path=nowhere/in.parquet"))


def test_glob_without_a_match(make_job):
    assert "no file matches" in refused(make_job(None, "input.path=*.parquet"))


def test_folder_without_data(make_job, tmp_path):
    (tmp_path / "data").mkdir()
    assert "It is empty." in refused(make_job(None, "input.path=data"))
    (tmp_path / "data" / "notes.txt").write_text("x")
    assert "It holds notes.txt." in refused(make_job(None, "input.path=data"))


def test_folder_of_several_kinds(make_job, some_rows, tmp_path):
    (tmp_path / "data").mkdir()
    pq.write_table(some_rows(1), tmp_path / "data" / "a.parquet")
    (tmp_path / "data" / "b.csv").write_text("prompt\nx\n")
    assert "mixes csv and parquet files. Choose one kind with a glob." in refused(make_job(None, "input.path=data"))


def test_a_run_is_no_input_but_its_data_are(make_job, tmp_path, some_rows):
    (tmp_path / "run" / "_dgbatch").mkdir(parents=True)
    (tmp_path / "run" / "data").mkdir()
    pq.write_table(some_rows(3), tmp_path / "run" / "data" / "part-0.parquet")
    assert "is a run of dgbatch. For its completions, name the folder data" in refused(make_job(None, "input.path=run"))
    assert make_plan(make_job(None, "input.path=run/data")).rows == 3


def test_credentials_in_a_uri_are_refused_and_not_shown(make_job, monkeypatch):
    monkeypatch.setenv("KEY", "hunter2")
    with pytest.raises(LocationError, match="credentials and endpoints come from the environment") as caught:
        make_job(None, "input.path=s3://${KEY}@bucket/x.parquet")
    assert "hunter2" not in str(caught.value)


def test_unknown_ending(make_job, tmp_path):
    (tmp_path / "in.xlsx").write_text("x")
    assert "the ending '.xlsx' is not known. It is one of .parquet" in refused(make_job(None, "input.path=in.xlsx"))


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_truncated_parquet(make_job, some_rows, tmp_path, keep):
    spec = make_job(some_rows(100))
    whole = (tmp_path / "in.parquet").read_bytes()
    (tmp_path / "in.parquet").write_bytes(whole[:keep])
    message = refused(spec)
    assert "in.parquet: " in message and ("not readable as parquet" in message or "the file is empty" in message)


def test_parquet_damaged_in_its_pages_is_found_when_it_is_read(make_job, some_rows, tmp_path):
    spec = make_job(some_rows(1000), "input.id=id")
    data = bytearray((tmp_path / "in.parquet").read_bytes())
    data[4:400] = b"\xff" * 396
    (tmp_path / "in.parquet").write_bytes(data)
    assert "in.parquet: not readable as parquet" in refused(spec)


def test_no_rows(make_job, some_rows):
    assert "has no rows. Give a file with at least one prompt." in refused(make_job(some_rows(0)))


def test_no_row_passes(make_job, some_rows):
    assert "none of the 5 rows passes 'n > 9'" in refused(make_job(some_rows(5), "input.where=n > 9"))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("prompt.template={{ promt }}", "prompt.template: the input has no column 'promt'. Did you mean 'prompt'?"),
        ("prompt.system={{ Answer }}", "prompt.system: the input has no column 'Answer'. Did you mean 'answer'?"),
        ("prompt={messages: turns}", "prompt.messages: the input has no column 'turns'."),
        ("input.id=identity", "input.id: in.parquet has no column 'identity'."),
        ("output.columns=[n, m]", "output.columns: in.parquet has no column 'm'."),
        ("accept.rules=[{equals: anser}]", "no column 'anser'. Did you mean 'answer'?"),
        ("input.where=m > 1", "input.where: the input has no column 'm'."),
    ],
)
def test_missing_columns_list_the_columns_there_are(make_job, some_rows, override, says):
    message = refused(make_job(some_rows(3), override))
    assert says in message and "It has: id, prompt, answer, n." in message


def test_column_missing_in_one_file_names_the_file(make_job, some_rows, tmp_path):
    (tmp_path / "data").mkdir()
    pq.write_table(some_rows(3), tmp_path / "data" / "a.parquet")
    pq.write_table(some_rows(3).drop_columns(["prompt"]), tmp_path / "data" / "b.parquet")
    assert "prompt: b.parquet has no column 'prompt'." in refused(make_job(None, "input.path=data"))
    assert make_plan(make_job(None, "input.path=data", "prompt.template={{ n }}")).rows == 6


def test_column_of_two_types_names_both_files(make_job, tmp_path):
    (tmp_path / "data").mkdir()
    for name, values in {"a": [1], "b": ["x"]}.items():
        pq.write_table(pa.table({"prompt": values}), tmp_path / "data" / f"{name}.parquet")
    message = refused(make_job(None, "input.path=data"))
    assert "column 'prompt' is int64 in a.parquet and string in b.parquet" in message


def test_column_that_is_all_null_in_one_file_takes_the_type_of_the_others(make_job, tmp_path):
    (tmp_path / "data").mkdir()
    for name, values in {"a": pa.nulls(1), "b": pa.array(["x"]), "c": pa.nulls(1)}.items():
        pq.write_table(pa.table({"prompt": values}), tmp_path / "data" / f"{name}.parquet")
    plan = make_plan(make_job(None, "input.path=data"))
    assert plan.schema.field("prompt").type == pa.string()


def test_duplicate_ids_are_refused_with_examples(make_job):
    ids = ["a", "b", "a", "c", "b", "a", "d"]
    message = refused(make_job(pa.table({"id": ids, "prompt": ids}), "input.id=id", row_group_size=3))
    assert message.startswith("input.id: column 'id' repeats ids in 3 rows: 'a' (3 times), 'b' (2 times).")
    assert "leave input.id out" in message


def test_duplicate_ids_are_found_across_files_and_numbers_are_ids_too(make_job, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("a", "b"):
        numbers = list(range(6))
        pq.write_table(pa.table({"id": numbers, "prompt": ["x"] * 6}), tmp_path / "data" / f"{name}.parquet")
    message = refused(make_job(None, "input.path=data", "input.id=id"))
    assert "repeats ids in 6 rows: '0' (2 times)," in message and ", ...." in message


def test_only_rows_that_are_taken_need_their_own_id(make_job):
    rows = pa.table({"id": ["a", "b", "a"], "prompt": ["x", "y", "z"]})
    assert make_plan(make_job(rows, "input.id=id", "input.limit=2")).rows == 2
    assert make_plan(make_job(rows, "input.id=id", "input.where=prompt <> 'x'")).rows == 2
    assert make_plan(make_job(rows, "input.id=id", "input.where=id = 'a'", "input.limit=1")).rows == 1


def test_ids_that_only_share_a_hash_are_accepted(make_job, some_rows, monkeypatch):
    monkeypatch.setattr(condition.IdHashes, "of", lambda _, texts: pa.array([7] * len(texts), pa.uint64()))
    assert make_plan(make_job(some_rows(5), "input.id=id")).rows == 5


@pytest.mark.parametrize("gap", [None, ""])
def test_null_and_empty_ids_are_refused(make_job, gap):
    rows = pa.table({"id": ["a", gap, gap], "prompt": ["x", "y", "z"]})
    assert "input.id: column 'id' has 2 null or empty ids." in refused(make_job(rows, "input.id=id"))


@pytest.mark.parametrize("values", [[1.5, 2.5], [True, False], [[1], [2]]])
def test_ids_are_text_or_whole_numbers(make_job, values):
    message = refused(make_job(pa.table({"id": values, "prompt": ["x", "y"]}), "input.id=id"))
    assert "ids are text or whole numbers" in message


def test_ids_of_a_dictionary_column(make_job):
    rows = pa.table({"id": pa.array(["a", "b"]).dictionary_encode(), "prompt": ["x", "y"]})
    spec = make_job(rows, "input.id=id")
    assert source.ids(make_plan(spec).shards[0], spec.input) == ["a", "b"]


def test_messages_must_be_a_list_of_turns(make_job, some_rows):
    message = refused(make_job(some_rows(2), "prompt={messages: prompt}"))
    assert "column 'prompt' is string, not a list of {role, content}" in message and "'{{ prompt }}'" in message
    turns = pa.table({"turns": [[{"role": "user", "content": "hi"}]]})
    assert make_plan(make_job(turns, "prompt={messages: turns}")).rows == 1


def test_output_among_the_input_is_refused(make_job, some_rows, tmp_path):
    spec = make_job(some_rows(2), "input.path=.", "output.path=out")
    assert "output.path: lies among the input files" in refused(spec)
    (tmp_path / "out").mkdir()
    pq.write_table(some_rows(2), tmp_path / "out" / "a.parquet")
    assert "output.path: lies among the input files" in refused(make_job(None, "input.path=out/*.parquet"))


def test_output_column_that_clashes_is_refused_by_the_plan(make_job):
    rows = pa.table({"prompt": ["x"], "text": ["y"]})
    assert "text" in refused(make_job(rows, "output.columns=[text]"))


def test_template_that_does_not_parse_is_refused(make_job, some_rows):
    assert "prompt.template: line 1 of the template" in refused(make_job(some_rows(1), "prompt.template={{ a"))


@given(
    rows=st.integers(0, 300),
    shard_rows=st.integers(1, 50),
    passing=st.none() | st.sets(st.integers(0, 299)),
    limit=st.none() | st.integers(1, 400),
)
def test_cut_covers_every_selected_row_exactly_once(rows, shard_rows, passing, limit):
    positions = None if passing is None else sorted(row for row in passing if row < rows)
    selected = list(range(rows)) if positions is None else positions
    wanted = selected if limit is None else selected[:limit]
    pieces = list(cut(rows, shard_rows, positions, limit))
    covered, end = [], 0
    for first, count, taken in pieces:
        inside = [row for row in selected if first <= row < first + count]
        assert len(inside) == taken and 1 <= taken <= shard_rows
        assert first == end, "shards leave no gap"
        covered, end = covered + inside, first + count
    assert covered == wanted and end <= rows


@settings(max_examples=60)
@given(
    groups=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    shard_rows=st.integers(1, 12),
    limit=st.none() | st.integers(1, 100),
    modulus=st.none() | st.integers(1, 7),
    named=st.booleans(),
    kind=st.sampled_from(["parquet", "arrow", "jsonl", "csv"]),
)
def test_plans_of_any_input_cover_every_row_exactly_once(
    tmp_path_factory, groups, shard_rows, limit, modulus, named, kind
):
    folder = tmp_path_factory.mktemp("plan")
    (folder / "data").mkdir()
    expected: list[int] = []
    for file in range(2):
        numbers = [[len(expected) + sum(groups[:g]) + i for i in range(size)] for g, size in enumerate(groups)]
        write(folder / "data" / f"{file}.{kind}", kind, numbers)
        expected += [number for group in numbers for number in group]
    if modulus is not None:
        expected = [number for number in expected if number % modulus == 0]
    expected = expected[:limit]
    job = {
        "version": 1, "name": "x", "model": {"checkpoint": "demo"}, "prompt": {"template": "{{ n }}"},
        "input": {"path": "data", "limit": limit, "id": "n" if named else None,
                  "where": f"n::int % {modulus} = 0" if modulus else None},
        "output": {"path": "out"}, "workers": {"shard_rows": shard_rows},
    }  # fmt: skip
    (folder / "job.yaml").write_text(json.dumps(job))
    spec = load_job(str(folder / "job.yaml"))
    if not expected:
        assert "no rows" in (message := refused(spec)) or "none of the" in message
        return
    plan = make_plan(spec)
    assert plan.rows == len(expected) and [shard.index for shard in plan.shards] == list(range(len(plan.shards)))
    read = [pair for shard in plan.shards for pair in source.rows(shard, spec.input, ["n"])]
    assert [int(row["n"]) for _, row in read] == expected
    assert len({row_id for row_id, _ in read}) == len(expected)
    assert [row_id for row_id, _ in read] == [name for shard in plan.shards for name in source.ids(shard, spec.input)]
    if named:
        assert [row_id for row_id, _ in read] == [str(number) for number in expected]
    assert all(0 < shard.selected <= shard_rows for shard in plan.shards)
    assert Plan.from_table(plan.to_table()) == plan


def write(path, kind: str, groups: list[list[int]]) -> None:
    """A file with a column n, in these groups where the format has groups."""
    schema = pa.schema([("n", pa.int64())])
    if kind == "parquet":
        with pq.ParquetWriter(path, schema) as file:
            for group in groups:
                file.write_table(pa.table({"n": group}, schema=schema))
    elif kind == "arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
            for group in groups:
                file.write_batch(pa.record_batch({"n": pa.array(group, pa.int64())}))
    else:
        header = "n\n" if kind == "csv" else "\n"
        lines = [str(number) if kind == "csv" else json.dumps({"n": number}) for group in groups for number in group]
        path.write_text(header + "".join(f"{line}\n" for line in lines))


def test_shard_is_plain_data():
    shard = Shard(0, "a", 0, 0, 1, 1)
    with pytest.raises(AttributeError):
        shard.rows = 2
