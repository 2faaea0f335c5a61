"""Files of a shard: whole, declared, and the same bytes for the same rows."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgbatch.errors import RunFailed
from dgbatch.runner.schema import Schemas, schemas
from dgbatch.runner.sink import OutputRow, QuarantinedRow, counts, stored_schema, write_shard
from dgbatch.runner.storage.local_folder import LocalFolder as Folder
from tests.runner.conftest import MakeJob
from tests.runner.small_run import completion

INPUT = pa.schema([("prompt", pa.string()), ("n", pa.int64())])
ROW = {"prompt": "What?", "n": 1}


@pytest.fixture
def declared(make_job: MakeJob) -> Schemas:
    return schemas(make_job(None, "output.columns=[n]", "accept.rules=[{equals: n}]"), INPUT)


def output(row_id: str = "r0", n: Any = 1, passed: bool = True) -> OutputRow:
    return OutputRow(completion(row_id), 1, {"equals_n": passed}, {"prompt": "What?", "n": n})


def read(folder: Folder, name: str) -> pa.Table:
    path = folder.at(name)
    return pq.read_table(path) if name.endswith("parquet") else pa.ipc.open_file(path.read_bytes()).read_all()


@pytest.mark.parametrize("fmt", ["parquet", "arrow"])
def test_rows_are_written_in_the_order_given(tmp_path: Path, declared: Schemas, fmt: str) -> None:
    folder = Folder(tmp_path)
    bad = QuarantinedRow("r5", 0, "prompt_too_long", "9 too many", 2, ROW)
    data, quarantine = write_shard(folder, 42, "3f9c", fmt, declared, [output("r9"), output("r1", None, False)], [bad])
    assert data is not None and quarantine is not None
    assert data.name == f"data/part-000042-3f9c.{fmt}" and data.rows == 2
    raw = folder.get(data.name)
    assert (data.bytes, data.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
    first, second = read(folder, data.name).to_pylist()
    assert first == {
        "id": "r9", "sample": 0, "text": "4", "thinking": None, "finish_reason": "end_of_turn", "prompt_tokens": 7,
        "tokens": 2, "canvases": 1, "denoise_steps": 3, "token_ids": [52, 1], "noise_key": completion("r9").noise_key,
        "attempt": 1, "accepted": True, "rules": {"equals_n": True}, "n": 1,
    }  # fmt: skip
    assert (second["id"], second["accepted"], second["n"]) == ("r1", False, None)
    assert read(folder, quarantine.name).to_pylist() == [
        {"prompt": "What?", "n": 1, "id": "r5", "sample": 0, "error_code": "prompt_too_long",
         "error_message": "9 too many", "attempts": 2}
    ]  # fmt: skip


@pytest.mark.parametrize("fmt", ["parquet", "arrow"])
def test_metrics_are_written_as_the_engine_told_them(tmp_path: Path, make_job: MakeJob, fmt: str) -> None:
    told = {"revised_tokens": 3, "mean_entropy": 0.25, "queue_s": 0.5, "prefill_s": 1.5, "denoise_s": 8.0}
    row = OutputRow(replace(completion(), **told), 1, None, ROW)  # type: ignore[arg-type]
    folder = Folder(tmp_path)
    declared = schemas(make_job(None, "output.metrics=true", "output.columns=[n]"), INPUT)
    data, _ = write_shard(folder, 0, "aaaa", fmt, declared, [row], [])
    assert data is not None
    found = read(folder, data.name)
    assert found.column_names[-6:] == [*told, "n"]
    assert {name: found[name].to_pylist() for name in told} == {name: [value] for name, value in told.items()}


@pytest.mark.parametrize("fmt", ["parquet", "arrow"])
def test_the_same_rows_give_the_same_bytes(tmp_path: Path, declared: Schemas, fmt: str) -> None:
    written = []
    for attempt in ("aaaa", "bbbb"):
        data, _ = write_shard(Folder(tmp_path), 0, attempt, fmt, declared, [output(f"r{n}", n) for n in range(100)], [])
        assert data is not None
        written.append((data.sha256, data.bytes))
    assert written[0] == written[1]


@pytest.mark.parametrize("fmt", ["parquet", "arrow"])
def test_a_file_has_the_declared_columns_even_when_all_is_null(tmp_path: Path, declared: Schemas, fmt: str) -> None:
    folder = Folder(tmp_path)
    data, _ = write_shard(folder, 0, "aaaa", fmt, declared, [output(n=None)], [])
    assert data is not None
    found = read(folder, data.name).schema
    assert found.equals(stored_schema(declared.data, fmt)) and found.equals(declared.data)
    assert not found.metadata


def test_a_file_that_would_be_empty_is_not_written(tmp_path: Path, declared: Schemas) -> None:
    assert write_shard(Folder(tmp_path), 0, "aaaa", "parquet", declared, [], []) == (None, None)
    assert not (tmp_path / "data").exists() and not (tmp_path / "quarantine").exists()


def test_parquet_is_compressed_with_zstd_in_one_row_group(tmp_path: Path, declared: Schemas) -> None:
    data, _ = write_shard(Folder(tmp_path), 0, "aaaa", "parquet", declared, [output()] * 1000, [])
    assert data is not None
    footer = pq.ParquetFile(tmp_path / data.name).metadata
    assert footer.num_row_groups == 1
    assert {footer.row_group(0).column(index).compression for index in range(footer.num_columns)} == {"ZSTD"}


def test_writing_the_same_attempt_again_is_fine_and_other_rows_are_not(tmp_path: Path, declared: Schemas) -> None:
    folder = Folder(tmp_path)
    first = write_shard(folder, 0, "aaaa", "parquet", declared, [output()], [])
    assert write_shard(folder, 0, "aaaa", "parquet", declared, [output()], []) == first
    with pytest.raises(RunFailed, match=r"part-000000-aaaa\.parquet exists with other rows"):
        write_shard(folder, 0, "aaaa", "parquet", declared, [output("other")], [])


def test_a_message_that_quotes_broken_text_can_be_written(tmp_path: Path, declared: Schemas) -> None:
    folder = Folder(tmp_path)
    bad = QuarantinedRow("r0", 0, "template_error", "bad \ud800 text", 1, ROW)
    _, quarantine = write_shard(folder, 0, "aaaa", "parquet", declared, [], [bad])
    assert quarantine is not None
    assert read(folder, quarantine.name)["error_message"].to_pylist() == ["bad ? text"]


def test_a_null_where_none_is_declared_is_our_mistake(tmp_path: Path, declared: Schemas) -> None:
    broken = replace(output(), completion=replace(completion(), text=None))  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="text is declared without nulls"):
        write_shard(Folder(tmp_path), 0, "aaaa", "parquet", declared, [broken], [])


def test_counts_are_sums_over_the_rows() -> None:
    bad = QuarantinedRow("r5", 0, "x", "y", 1, ROW)
    counted = counts([output("a"), output("b", passed=False), output("c")], [bad])
    sums = counted.pop("sums")
    assert counted == {
        "ok": 3, "quarantined": 1, "accepted": 2, "prompt_tokens": 21, "tokens": 6, "canvases": 3, "denoise_steps": 9,
    }  # fmt: skip
    assert sums.quarantined == (("x", 1),)
    assert (sums.steps_per_canvas.count, sums.steps_per_canvas.sum) == (3, 9)
    assert not OutputRow(completion(), 1, None, {}).accepted


@pytest.mark.parametrize("fmt", ["parquet", "arrow"])
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.int8(), -3),
        (pa.uint64(), 2**64 - 1),
        (pa.float32(), 0.5),
        (pa.bool_(), True),
        (pa.large_string(), "ü"),
        (pa.string_view(), "ü"),
        (pa.binary(), b"\x00"),
        (pa.decimal128(9, 2), Decimal("1.25")),
        (pa.date32(), date(2026, 11, 21)),
        (pa.timestamp("s"), datetime(2026, 11, 21)),
        (pa.timestamp("ns", "UTC"), datetime(2026, 11, 21, tzinfo=timezone.utc)),
        (pa.duration("us"), timedelta(seconds=1)),
        (pa.dictionary(pa.int8(), pa.string()), "red"),
        (pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])), [{"role": "user", "content": "x"}]),
        (pa.map_(pa.string(), pa.int32()), [("a", 1)]),
        (pa.null(), None),
    ],
    ids=str,
)
def test_columns_of_every_type_are_carried(
    tmp_path: Path, make_job: MakeJob, fmt: str, kind: pa.DataType, value: Any
) -> None:
    declared = schemas(make_job(None, "output.columns=[n]"), pa.schema([("n", kind)]))
    folder = Folder(tmp_path)
    rows = [OutputRow(completion(), 1, None, {"n": value}), OutputRow(completion("r1"), 1, None, {"n": None})]
    data, _ = write_shard(folder, 0, "aaaa", fmt, declared, rows, [])
    assert data is not None
    table = read(folder, data.name)
    assert table.schema.equals(stored_schema(declared.data, fmt))
    column = table["n"]
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        column = column.cast(pa.timestamp("us", kind.tz))
    assert column.to_pylist() == [value, None]
