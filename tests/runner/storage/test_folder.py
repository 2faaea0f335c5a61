"""Files appear whole or not at all, and never over another one."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dgbatch.runner.storage.local_folder import LocalFolder


def everything_in(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_put_if_absent_writes_all_the_bytes_and_leaves_nothing_else(tmp_path: Path) -> None:
    assert LocalFolder(tmp_path).put_if_absent("a/b/c.json", b"whole")
    assert everything_in(tmp_path) == {"a/b/c.json": b"whole"}


def test_put_if_absent_never_replaces_a_file(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    assert folder.put_if_absent("a", b"first")
    assert not folder.put_if_absent("a", b"second")
    assert everything_in(tmp_path) == {"a": b"first"}


def test_of_many_who_put_at_once_exactly_one_wins(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    texts = [b"%d" % number * 10_000 for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda text: folder.put_if_absent("record", text), texts))
    assert sum(won) == 1
    assert everything_in(tmp_path) == {"record": texts[won.index(True)]}


def test_a_link_whose_answer_was_lost_is_still_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def link_and_lose_the_answer(*names: Path) -> None:
        link(*names)
        raise FileExistsError

    monkeypatch.setattr(os, "link", link_and_lose_the_answer)
    assert LocalFolder(tmp_path).put_if_absent("a", b"ours")
    assert everything_in(tmp_path) == {"a": b"ours"}


def test_put_replaces_in_one_step(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    folder.put("a", b"first")
    folder.put("a", b"second")
    assert everything_in(tmp_path) == {"a": b"second"}


@pytest.mark.parametrize("verb", ["put", "put_if_absent"])
def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        getattr(LocalFolder(tmp_path), verb)("a", b"text")
    assert everything_in(tmp_path) == {}


def test_a_failed_replace_leaves_no_half_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="directory"):
        LocalFolder(tmp_path).put("a", b"text")
    assert everything_in(tmp_path) == {}


def test_list_gives_files_only_sorted_and_without_half_written_ones(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    for name in ("data/b", "data/a", "data/.a.1f.partial", "data/sub/c", "top"):
        folder.put(name, b"")
    assert folder.list("data") == ["data/a", "data/b"]
    assert folder.partials("data") == ["data/.a.1f.partial"]
    assert folder.list() == ["top"]
    assert folder.list("nowhere") == []


def test_a_torn_line_is_closed_before_the_next_one(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    folder.append("log", b"one")
    folder.append("log", b"two")
    with open(tmp_path / "log", "ab") as file:
        file.write(b"thr")
    folder.append("log", b"four")
    assert folder.get("log") == b"one\ntwo\nthr\nfour\n"


def test_delete_is_content_when_the_file_is_gone(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    folder.put("a", b"")
    folder.delete("a")
    folder.delete("a")
    assert not folder.exists("a")
