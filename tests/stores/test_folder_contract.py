"""What every folder promises, on a disk and in each object store."""

from __future__ import annotations

import os
import threading
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgbatch.runner.compaction import compact, read_records
from dgbatch.runner.storage import store, store_folder
from dgbatch.runner.storage.folder import Folder, open_folder
from tests.runner.test_ledger import commit


@pytest.fixture
def folder(place: str) -> Folder:
    return open_folder(place)


def test_what_was_put_is_there(folder: Folder) -> None:
    assert folder.put_if_absent("a/b/c.json", b"whole")
    assert folder.get("a/b/c.json") == b"whole"
    assert folder.exists("a/b/c.json")


def test_the_first_put_stays(folder: Folder) -> None:
    assert folder.put_if_absent("a", b"first")
    assert not folder.put_if_absent("a", b"second")
    assert not folder.put_if_absent("a", b"first")
    assert folder.get("a") == b"first"


def test_of_many_who_put_at_once_exactly_one_wins(folder: Folder) -> None:
    folder.put("made", b"")
    start, won = threading.Barrier(8), []

    def put(number: int) -> None:
        start.wait()
        if folder.put_if_absent("a", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert folder.get("a") == b"%d" % won[0]


def test_put_replaces(folder: Folder) -> None:
    folder.put("a", b"first")
    folder.put("a", b"second")
    assert folder.get("a") == b"second"
    assert folder.list() == ["a"]


def test_the_bytes_of_an_arrow_buffer_are_bytes(folder: Folder) -> None:
    assert folder.put_if_absent("a", pa.py_buffer(b"data"))
    folder.put("b", pa.py_buffer(b"data"))
    assert folder.get("a") == folder.get("b") == b"data"


def test_an_empty_file_is_a_file(folder: Folder) -> None:
    folder.put("a", b"")
    assert folder.get("a") == b""
    assert folder.exists("a")


def test_what_is_not_there_is_said_to_be_missing(folder: Folder) -> None:
    assert not folder.exists("a")
    with pytest.raises(FileNotFoundError):
        folder.get("a")


def test_a_list_holds_what_was_just_put_and_not_what_was_deleted(folder: Folder) -> None:
    for number in range(30):
        folder.put(f"commits/{number:06d}.json", b"{}")
        assert folder.list("commits") == [f"commits/{each:06d}.json" for each in range(number + 1)]
    for number in range(29):
        folder.delete(f"commits/{number:06d}.json")
    assert folder.list("commits") == ["commits/000029.json"]
    assert not folder.exists("commits/000000.json")


def test_a_file_that_was_put_anew_has_another_version_and_others_keep_theirs(folder: Folder) -> None:
    for name in ("a", "b", "inner/c"):
        folder.put(f"x/{name}", b"one")
    before = folder.versions("x")
    assert list(folder.list("x")) == sorted(before) == ["x/a", "x/b"]
    folder.put("x/b", b"two")
    after = folder.versions("x")
    assert before["x/a"] == after["x/a"] and before["x/b"] != after["x/b"]
    assert folder.versions("no such folder") == {}


def test_copies_of_records_are_believed_until_a_record_is_put_anew(folder: Folder) -> None:
    records = [commit(0), commit(1, 0, 4), commit(1, 4, 8)]
    for each in records:
        folder.put(each.name, each.to_json("run"))
    assert read_records(folder, "run") == (records, 3)
    compact(folder, "run", records)
    assert read_records(folder, "run") == (records, 0)
    other = replace(records[2], worker="w1")
    folder.put(other.name, other.to_json("run"))
    assert read_records(folder, "run") == ([*records[:2], other], 1)


def test_a_list_goes_over_pages(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"many/{number:06d}.json" for number in range(1100)]  # a page of S3 has 1,000
    work = iter(names)
    lock = threading.Lock()

    def put() -> None:
        while True:
            with lock:
                name = next(work, None)
            if name is None:
                return
            folder.put(name, b"{}")

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folder.list("many") == names


def test_a_list_knows_its_folder_from_others_with_its_beginning(folder: Folder) -> None:
    folder.put("data/a", b"")
    folder.put("data2/b", b"")
    folder.put("data/deep/c", b"")
    folder.put("d", b"")
    assert folder.list("data") == ["data/a"]
    assert folder.list() == ["d"]
    assert folder.list("nothing") == []
    assert folder.entries() == ["d", "data/", "data2/"]
    assert folder.entries("data") == ["a", "deep/"]
    assert folder.entries("nothing") == []


def test_a_file_that_was_written_again_has_another_version(folder: Folder) -> None:
    for number in range(3):
        folder.put(f"commits/{number}", b"first")
    before = folder.versions("commits")
    folder.put("commits/1", b"other")
    after = folder.versions("commits")
    assert [*before] == [*after] == folder.list("commits")
    assert [name for name in before if before[name] != after[name]] == ["commits/1"]
    assert dict(folder.versions("nothing")) == {}


def test_nothing_is_being_written_when_nobody_writes(folder: Folder) -> None:
    folder.put("data/a", b"")
    assert list(folder.partials("data")) == []


def test_deleting_twice_is_once(folder: Folder) -> None:
    folder.put("a", b"")
    folder.delete("a")
    folder.delete("a")
    assert not folder.exists("a")
    assert folder.put_if_absent("a", b"again")


def test_a_folder_is_free_until_something_is_in_it(folder: Folder) -> None:
    assert folder.is_free()
    assert not folder.is_file()
    folder.put("a/b", b"")
    assert not folder.is_free()
    assert not folder.is_file()


def test_lines_stay_in_their_order(folder: Folder) -> None:
    assert folder.log("log/events.jsonl") == b""
    for number in range(5):
        folder.append("log/events.jsonl", b"%d" % number)
    assert folder.log("log/events.jsonl") == b"0\n1\n2\n3\n4\n"


def test_lines_of_two_writers_are_all_there(folder: Folder) -> None:
    folder.append("events.jsonl", b"first")
    start = threading.Barrier(2)

    def write(name: bytes) -> None:
        start.wait()
        for number in range(5):
            folder.append("events.jsonl", b"%s%d" % (name, number))

    threads = [threading.Thread(target=write, args=(name,)) for name in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = folder.log("events.jsonl").splitlines()
    assert lines[0] == b"first" and len(lines) == 11
    for name in (b"a", b"b"):
        assert [line for line in lines[1:] if line.startswith(name)] == [b"%s%d" % (name, each) for each in range(5)]


def test_a_long_log_is_read_whole(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_folder, "SEGMENT_BYTES", 100)
    lines = [b"%030d" % number for number in range(12)]
    for line in lines:
        folder.append("log/events.jsonl", line)
    folder.append("log/events.jsonl", b"x" * 300)  # a line longer than that stands alone
    folder.append("log/events.jsonl", b"end")
    assert folder.log("log/events.jsonl").splitlines() == [*lines, b"x" * 300, b"end"]


def test_a_large_file_comes_back_byte_for_byte(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_folder, "WHOLE_BYTES", 6 << 20)
    monkeypatch.setattr(store, "WHOLE_BYTES", 6 << 20)
    large = os.urandom((20 << 20) + 7)  # three parts
    assert folder.put_if_absent("large", large)
    assert folder.get("large") == large
    assert not folder.put_if_absent("large", b"other" * (2 << 20))
    folder.put("large", large[1:])
    assert folder.get("large") == large[1:]


def test_names_may_hold_what_people_write(folder: Folder) -> None:
    names = ["a b.json", "ä+ö%20.json", "x=1/y&z.json", "~-'(1).json"]
    for name in names:
        folder.put(name, name.encode())
    for name in names:
        assert folder.get(name) == name.encode()
    assert folder.list() == sorted(name for name in names if "/" not in name)


@pytest.mark.parametrize("fmt", ["parquet", "ipc"])
def test_files_are_read_as_one_table(folder: Folder, fmt: str) -> None:
    names = []
    for part in range(3):
        table, sink = pa.table({"id": range(part * 100, part * 100 + 100)}), pa.BufferOutputStream()
        if fmt == "parquet":
            pq.write_table(table, sink, row_group_size=40)
        else:
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        names.append(f"data/part-{part}.{fmt}")
        folder.put(names[-1], sink.getvalue().to_pybytes())
    found = folder.dataset(names, table.schema, fmt)
    assert found.to_table()["id"].to_pylist() == list(range(300))
    assert found.to_table(filter=pa.compute.field("id") > 250).num_rows == 49
