"""One record per shard: whole, first, and never replaced."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.errors import OutputError
from dgbatch.runner.commits import (
    COMMITS,
    Commit,
    FileRecord,
    is_part,
    list_records,
    part_name,
    put_commit,
    read_commit,
    record_name,
)
from dgbatch.runner.storage.local_folder import LocalFolder as Folder
from tests.runner.small_run import Killed, Reaper
from tests.runner.test_ledger import with_sums

RUN = "fingerprint"
COMMIT = Commit(
    shard=42,
    attempt="3f9c",
    data=FileRecord("data/part-000042-3f9c.parquet", 2, 100, "aa"),
    quarantine=FileRecord("quarantine/part-000042-3f9c.parquet", 1, 50, "bb"),
    ok=2,
    quarantined=1,
    accepted=1,
    prompt_tokens=14,
    tokens=4,
    canvases=2,
    denoise_steps=6,
    seconds=0.1,
    worker="w0",
    committed_at="2026-11-21T04:00:00.000+00:00",
)
NAME = f"{COMMITS}/000042.json"


def test_names_are_decided_by_shard_and_attempt() -> None:
    assert record_name(42) == "000042.json"
    assert record_name(42, (128, 256)) == "000042-000128-000256.json"
    assert record_name(42, round=1) == "000042.r1.json"
    assert record_name(1_234_567, (0, 1_000_000)) == "1234567-000000-1000000.json"
    assert part_name("data", 42, "3f9c", "parquet") == "data/part-000042-3f9c.parquet"
    assert part_name("quarantine", 1_234_567, "3f9c", "arrow") == "quarantine/part-1234567-3f9c.arrow"
    assert is_part("data/part-000042-3f9c.parquet")
    assert not is_part("data/mine.parquet") and not is_part("data/../part-000042-3f9c.parquet")


def test_a_record_is_small_readable_json() -> None:
    written = json.loads(COMMIT.to_json(RUN))
    assert written["data"] == {"name": "data/part-000042-3f9c.parquet", "rows": 2, "bytes": 100, "sha256": "aa"}
    assert (written["shard"], written["ok"], written["run"]) == (42, 2, RUN)
    assert len(COMMIT.to_json(RUN)) < 1000


@pytest.mark.parametrize(
    "commit",
    [
        COMMIT,
        replace(COMMIT, data=None, ok=0),
        replace(COMMIT, quarantine=None, quarantined=0),
        replace(COMMIT, span=(128, 256)),
        replace(COMMIT, round=2, base=("3f9c", "beef")),
        with_sums(COMMIT),
    ],
)
def test_a_record_survives_json(commit: Commit) -> None:
    assert Commit.from_json(commit.to_json(RUN), RUN) == commit
    assert Commit.from_json(commit.to_json()) == commit


def test_a_whole_shard_is_written_as_it_was_before_there_were_pieces_and_sums() -> None:
    written = json.loads(COMMIT.to_json(RUN))
    assert not written.keys() & {"span", "round", "base", "sums"}
    assert json.loads(replace(COMMIT, span=(0, 3)).to_json(RUN))["span"] == [0, 3]


@pytest.mark.parametrize(
    "changes",
    [
        {"span": (3, 3)},
        {"span": (4, 3)},
        {"span": (-1, 3)},
        {"span": (0, True)},
        {"span": (0, 1, 2)},
        {"shard": "42"},
        {"round": -1},
        {"round": 1},
        {"base": ("3f9c",)},
        {"round": 1, "base": ("3f9c",), "span": (0, 1)},
    ],
)
def test_a_record_of_no_rows_is_refused(changes: dict) -> None:
    with pytest.raises((ValueError, TypeError), match=r"is no piece of a run|only a round of retry"):
        Commit.from_json(replace(COMMIT, **changes).to_json())


def test_files_are_those_that_exist() -> None:
    assert COMMIT.files == (COMMIT.data, COMMIT.quarantine)
    assert replace(COMMIT, quarantine=None).files == (COMMIT.data,)


def test_the_same_record_put_twice_is_a_success(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert put_commit(folder, RUN, COMMIT)
    assert put_commit(folder, RUN, COMMIT)
    assert read_commit(folder, RUN, NAME) == COMMIT


def test_second_commit_of_a_shard_changes_nothing(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    second = replace(COMMIT, attempt="beef", data=None, quarantine=None)
    assert put_commit(folder, RUN, COMMIT)
    assert not put_commit(folder, RUN, second)
    assert read_commit(folder, RUN, NAME) == COMMIT


def test_a_kill_at_any_point_leaves_a_whole_record_or_none(tmp_path: Path) -> None:
    kills = 0
    for point in range(50):
        folder = Folder(tmp_path / str(point))
        with pytest.MonkeyPatch.context() as monkeypatch:
            reaper = Reaper(monkeypatch, point)
            try:
                put_commit(folder, RUN, COMMIT)
            except Killed:
                kills += 1
        before = list_records(folder)
        assert [read_commit(folder, RUN, name) for name in before] in ([], [COMMIT])
        second = replace(COMMIT, worker="w1")
        assert put_commit(folder, RUN, second) == (not before)
        assert read_commit(folder, RUN, NAME) == (COMMIT if before else second)
        if not reaper.killed:
            break
    assert kills > 5


def test_records_of_one_shard_are_listed_whole_then_pieces_then_rounds(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    names = ["000042.json", "000042-000000-000128.json", "000042-000128-1000000.json", "000042-999999-1000000.json",
             "000042.r1.json", "000042.r10.json", "000043.json"]  # fmt: skip
    for name in reversed(names):
        folder.put(f"{COMMITS}/{name}", b"{}")
    assert list_records(folder) == [f"{COMMITS}/{name}" for name in names]


def test_a_piece_under_the_name_of_the_whole_is_refused(tmp_path: Path) -> None:
    Folder(tmp_path).put(NAME, replace(COMMIT, span=(0, 3)).to_json(RUN))
    with pytest.raises(OutputError, match=r"000042-000000-000003\.json, moved.*dgbatch verify .* --repair, and submit"):
        read_commit(Folder(tmp_path), RUN, NAME)


def test_records_are_listed_in_the_order_of_their_shards(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for index in (1_000_000, 5, 999_999):
        put_commit(folder, RUN, replace(COMMIT, shard=index, data=None, quarantine=None))
    folder.put(f"{COMMITS}/.000007.json.ab.partial", b"{")
    folder.put(f"{COMMITS}/.DS_Store", b"")
    assert list_records(folder) == [f"{COMMITS}/{name}.json" for name in ("000005", "999999", "1000000")]


@given(st.data())
def test_any_flipped_byte_of_a_record_is_found(data: st.DataObject) -> None:
    raw = bytearray(COMMIT.to_json(RUN))
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises((ValueError, TypeError)):
        Commit.from_json(bytes(raw), RUN)


def test_a_record_of_another_run_is_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    put_commit(folder, "another", COMMIT)
    with pytest.raises(OutputError, match=r"000042\.json cannot be trusted: it belongs to another run\. Restore it"):
        read_commit(folder, RUN, NAME)


def test_a_record_under_another_name_is_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.put(f"{COMMITS}/000007.json", COMMIT.to_json(RUN))
    with pytest.raises(OutputError, match=r"it is the record _dgbatch/commits/000042\.json, moved or copied here"):
        read_commit(folder, RUN, f"{COMMITS}/000007.json")


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "data/part-000041-3f9c.parquet",
        "data/part-000042-beef.parquet",
        "quarantine/part-000042-3f9c.parquet",
    ],
)
def test_a_record_that_names_a_file_of_somebody_else_is_refused(name: str) -> None:
    commit = replace(COMMIT, data=FileRecord(name, 2, 100, "aa"))
    with pytest.raises(ValueError, match="is not a name that its shard's data file can have"):
        Commit.from_json(commit.to_json())


@pytest.mark.parametrize("raw", [b"[]", b"{", b"\xff", b"{}", b"null"])
def test_what_is_no_record_is_refused(tmp_path: Path, raw: bytes) -> None:
    Folder(tmp_path).put(NAME, raw)
    with pytest.raises(OutputError, match="cannot be trusted"):
        read_commit(Folder(tmp_path), RUN, NAME)


def test_a_record_with_other_keys_is_refused() -> None:
    from dgbatch.runner.sealed import sealed

    body = {**json.loads(COMMIT.to_json()), "extra": 1}
    body.pop("sha256")
    with pytest.raises(ValueError, match="its keys differ from a commit's: extra"):
        Commit.from_json(sealed(body))
