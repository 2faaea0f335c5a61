"""Files of rows: what is read is what was written, and damage is named."""

from __future__ import annotations

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.errors import InputError
from dgbatch.runner import formats, text_blocks


def read(path, *columns: str) -> list[dict]:
    groups = range(len(formats.layout(str(path)).groups))
    return [
        row for group in groups for batch in formats.batches(str(path), group, columns) for row in batch.to_pylist()
    ]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(text_blocks, "BLOCK_BYTES", 64)
    text_blocks.cut.cache_clear()


def test_csv_is_text_as_written(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,prompt,note\n007,"two\nlines, ""quoted""",\n1e3,2020-01-01,NA\n')
    assert set(formats.layout(str(path)).schema.types) == {pa.string()}
    assert read(path, "id", "prompt", "note") == [
        {"id": "007", "prompt": 'two\nlines, "quoted"', "note": ""},
        {"id": "1e3", "prompt": "2020-01-01", "note": "NA"},
    ]


def test_json_strings_that_look_like_dates_stay_strings(tmp_path):
    path = tmp_path / "a.jsonl"
    day = "2020-01-01"
    rows = [{"day": day, "turns": [{"role": "user", "content": day}], "more": {"on": day}}, {"day": None}]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    found = read(path, "day", "turns", "more")
    assert found[0] == rows[0] and found[1] == {"day": None, "turns": None, "more": None}


def test_byte_order_mark_is_no_part_of_the_data(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfa\n1\n")
    assert read(tmp_path / "a.jsonl", "a") == [{"a": 1}] and read(tmp_path / "a.csv", "a") == [{"a": "1"}]


def test_types_hold_all_of_a_text_file(tmp_path, small_blocks):
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"n": n if n < 30 else n + 0.5, "late": "x" if n > 35 else None}) + "\n" for n in range(40))
    )
    layout = formats.layout(str(path))
    assert len(layout.groups) > 3 and sum(layout.groups) == 40
    assert layout.schema.field("n").type == pa.float64() and layout.schema.field("late").type == pa.string()
    assert [row["n"] for row in read(path, "n")] == [n if n < 30 else n + 0.5 for n in range(40)]


def test_type_that_changes_along_a_text_file_is_refused(tmp_path, small_blocks):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"n": value, "long": "x" * 100}) + "\n" for value in (1, "x")))
    with pytest.raises(InputError, match=r"a\.jsonl: a column changes its type along the file"):
        formats.layout(str(path))


CELL = st.text(st.sampled_from('ab,"\n ü'), max_size=12)


@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=40))
def test_csv_cut_into_blocks_is_the_same_csv(tmp_path_factory, rows):
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("one", "two"), *rows])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_blocks, "BLOCK_BYTES", 32)
        text_blocks.cut.cache_clear()
        assert [(row["one"], row["two"]) for row in read(path, "one", "two")] == rows
        text_blocks.cut.cache_clear()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.csv", b"id,p\n1,2,3\n", "Expected 2 columns, got 3"),
        ("a.csv", b"id,p\n1,\xff\n", "invalid UTF8"),
        ("a.csv", b"\xff\xfe,p\n1,2\n", "not readable as csv"),
        ("a.csv", b"a,b,a\n1,2,3\n", "the column 'a' is there twice. Rename one."),
        ("a.jsonl", b'{"a": 1}\n{"a":', "JSON parse error"),
        ("a.jsonl", b'{"a": 1, "a": 2}\n', "specified twice"),
        ("a.jsonl", b"[1, 2]\n", "not readable as jsonl"),
        ("a.jsonl", b'{"a": 1}\n{"a": "x"}\n', "changed from number to string"),
        ("a.parquet", b"PAR1 not really", "not readable as parquet"),
        ("a.arrow", b"ARROW1 not really", "not readable as arrow"),
        ("a.parquet", b"", "the file is empty (0 bytes)"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        formats.layout(str(tmp_path / name))
    assert name in str(caught.value) and says in str(caught.value)


def test_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("dgbatch.runner.storage.input_file.stamp", refuse)  # a chmod does not keep root out
    with pytest.raises(InputError, match=r"a\.parquet: may not be read. Check its permissions"):
        formats.layout(str(tmp_path / "a.parquet"))


def test_file_without_rows_has_none(tmp_path):
    for name, data in {"a.csv": "a,b\n", "b.csv": "\n\n", "a.jsonl": "\n"}.items():
        (tmp_path / name).write_text(data)
        assert sum(formats.layout(str(tmp_path / name)).groups) == 0


def test_file_that_went_away_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        list(formats.batches(str(tmp_path / "a.parquet"), 0, ["a"]))
    (tmp_path / "b.parquet").mkdir()
    with pytest.raises(InputError, match="not readable as parquet"):
        list(formats.batches(str(tmp_path / "b.parquet"), 0, ["a"]))


def test_large_group_is_read_in_pieces(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": range(10_000), "other": range(10_000)}), path)
    whole = read(path, "n", "absent")
    monkeypatch.setattr(formats, "KEEP_BYTES", 10)
    monkeypatch.setattr(formats, "_group", lambda *_: pytest.fail("kept a large group"))
    assert read(path, "n", "absent") == whole
    assert whole[9_999] == {"n": 9_999, "absent": None}
    assert sum(batch.num_rows for batch in formats.batches(str(path), 0, ["absent"])) == 10_000


def test_changed_file_is_read_anew(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n')
    first = formats.layout(str(path))
    path.write_text('{"a": 2}\n{"a": 3}\n')
    assert read(path, "a") == [{"a": 2}, {"a": 3}]
    assert formats.layout(str(path)).digest != first.digest


def test_digest_of_parquet_is_of_its_footer_and_of_others_of_all_bytes(tmp_path):
    pq.write_table(pa.table({"n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"n": [2]}), tmp_path / "b.parquet")
    assert formats.layout(str(tmp_path / "a.parquet")).digest != formats.layout(str(tmp_path / "b.parquet")).digest
    for name, number in (("a", 1), ("b", 2)):
        table = pa.table({"n": [number]})
        with pa.OSFile(str(tmp_path / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
            file.write_table(table)
    assert formats.layout(str(tmp_path / "a.arrow")).digest != formats.layout(str(tmp_path / "b.arrow")).digest
