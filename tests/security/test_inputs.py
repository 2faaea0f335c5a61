"""Damaged and hostile input files are errors that name the file, or rows; never a crash and never a hang."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgbatch.errors import InputError, RowError
from dgbatch.runner import formats, source, text_blocks
from dgbatch.runner.plan import make_plan
from dgbatch.runner.prompts import Renderer
from dgbatch.runner.spec import JobSpec
from tests.security.damage import damaged

ROWS = pa.table(
    {
        "id": [f"r{n}" for n in range(12)],
        "prompt": ["What is it? ä"] * 12,
        "n": list(range(12)),
        "list": [[1, 2], [3]] * 6,
        "kind": pa.array(["a", "b"] * 6).dictionary_encode(),
    }
)


def valid(ending: str) -> bytes:
    sink = io.BytesIO()
    if ending == "parquet":
        pq.write_table(ROWS, sink, row_group_size=5)
    elif ending == "arrow":
        with pa.ipc.new_file(sink, ROWS.schema) as writer:
            writer.write_table(ROWS, 5)
    elif ending == "csv":
        sink.write(b'id,prompt,n\nr0,"What, is it?",0\nr1,"two\nlines",2\n')
    else:
        sink.writelines(json.dumps(row).encode() + b"\n" for row in ROWS.to_pylist())
    return sink.getvalue()


def read_all(path: Path, **block: str) -> int:
    """Plan the file and render every row of it, as a job would; returns how many rows became prompts."""
    job = {"version": 1, "name": "x", "model": {"checkpoint": "demo"}, "input": {"path": str(path), **block}}
    spec = JobSpec.from_public(
        {**job, "prompt": {"template": "{{ prompt }} {{ row }}"}, "output": {"path": str(path.parent / "out")}}
    )
    plan = make_plan(spec)
    renderer, prompts, codes = Renderer(spec, plan.schema.names), 0, set()
    for shard in plan.shards:
        for row_id, row in source.rows(shard, spec.input, plan.schema.names):
            try:
                renderer.render(row_id, row, 0)
                prompts += 1
            except RowError as error:
                codes.add(error.code)
    assert codes <= {"template_error", "bad_text", "null_prompt"}
    return prompts


@pytest.fixture
def forget():
    """Two files of one size in one tick of the disk's clock look alike to the cache."""

    def clear() -> None:
        formats._group.cache_clear()
        text_blocks.cut.cache_clear()

    yield clear
    clear()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ending", ["parquet", "arrow", "csv", "jsonl"])
@pytest.mark.parametrize("block", [{}, {"id": "id", "where": "n::int > 1"}], ids=["plain", "id and where"])
def test_damaged_file_is_read_or_refused_by_name(tmp_path_factory, forget, ending, block):
    path = tmp_path_factory.mktemp("damaged") / f"in.{ending}"

    @settings(max_examples=120)
    @given(damaged(valid(ending)) | st.binary(max_size=100))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        forget()
        try:
            said = f"in.{ending}: {read_all(path, **block)} rows"
        except InputError as error:
            said = str(error)
        assert "input." in said or f"in.{ending}" in said or "prompt." in said

    check()


@pytest.mark.parametrize("ending", ["parquet", "arrow", "csv", "jsonl"])
def test_file_that_is_whole_gives_all_its_rows(tmp_path, ending):
    (tmp_path / f"in.{ending}").write_bytes(valid(ending))
    assert read_all(tmp_path / f"in.{ending}") == (2 if ending == "csv" else 12)


def test_arrow_offsets_that_lead_out_of_the_file_are_refused(tmp_path):
    offsets = pa.array([0, 100, 1], pa.int32()).buffers()[1]
    lying = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"x")])
    with pa.ipc.new_file(str(tmp_path / "in.arrow"), pa.schema([("prompt", pa.string())])) as writer:
        writer.write_batch(pa.record_batch([lying], ["prompt"]))
    with pytest.raises(InputError, match=r"in\.arrow: not readable as arrow"):
        read_all(tmp_path / "in.arrow")


DEEP = 100_000


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": ' + "[" * DEEP + "]" * DEEP + "}",
        '{"prompt": ' + '{"a": ' * DEEP + "1" + "}" * DEEP + "}",
        '{"prompt":\n' + "[\n" * DEEP,
        '{"prompt": "]]}", "a":\n' + '[["]]", \n' * DEEP,
    ],
    ids=["lists", "objects", "over many lines", "with brackets in strings"],
)
def test_json_nested_deeper_than_the_readers_stack_is_refused(tmp_path, text):
    (tmp_path / "in.jsonl").write_text(text + "\n")
    with pytest.raises(InputError, match="more than 64 deep"):
        read_all(tmp_path / "in.jsonl")


def test_brackets_inside_json_text_nest_nothing(tmp_path):
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": '[{"' * 1000, "list": [[n] for n in range(99)]}) + "\n")
    assert read_all(tmp_path / "in.jsonl") == 1
