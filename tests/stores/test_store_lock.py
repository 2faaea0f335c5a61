"""The lock of a run in an object store: one owner, seen by its age, taken over by exactly one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, replace

import pytest

from dgbatch.errors import OutputError, RunLocked
from dgbatch.runner.layout import LOCK, RUN
from dgbatch.runner.storage import lock as lock_module
from dgbatch.runner.storage import store_lock
from dgbatch.runner.storage.folder import open_folder
from dgbatch.runner.storage.lock import Owner, lock, owner
from dgbatch.runner.storage.store import Store
from dgbatch.runner.storage.store_folder import StoreFolder
from tests.stores.conftest import STORES

ELSEWHERE = replace(Owner.me(), host="elsewhere", pid=1, key="other")

pytestmark = pytest.mark.parametrize("place", STORES[1:], indirect=True)


@pytest.fixture
def folder(place: str) -> StoreFolder:
    folder = open_folder(place)
    assert isinstance(folder, StoreFolder)
    return folder


def leave_behind(folder: StoreFolder, left: Owner) -> None:
    """A lock whose owner did not release it."""
    folder.put(LOCK, json.dumps({"owner": asdict(left), "beats": 3}).encode())


def test_a_lock_is_seen_while_it_is_held_and_gone_after(folder: StoreFolder) -> None:
    with lock(folder.path) as held:
        assert owner(folder.path) == held.owner
        assert not held.lost
        folder.put(RUN, b"{}")
    assert owner(folder.path) is None
    with lock(folder.path) as again:
        assert again.owner != held.owner


def test_a_second_one_is_refused_with_the_name_of_the_first(folder: StoreFolder) -> None:
    leave_behind(folder, ELSEWHERE)
    with pytest.raises(RunLocked, match="pid 1 on elsewhere") as refused, lock(folder.path):
        pytest.fail("two owners")
    assert refused.value.exit_code == 5
    assert owner(folder.path) == ELSEWHERE


def test_a_dead_process_of_this_machine_keeps_no_lock(folder: StoreFolder) -> None:
    leave_behind(folder, replace(Owner.me(), started="another boot:1"))
    assert owner(folder.path) is None
    with lock(folder.path) as held:
        assert owner(folder.path) == held.owner


def test_a_lock_nobody_freshened_is_taken_over_and_its_owner_finds_out(
    folder: StoreFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = store_lock.take(folder)
    slept.owner = ELSEWHERE  # so that its age alone decides
    leave_behind(folder, ELSEWHERE)
    monkeypatch.setattr(lock_module, "STALE_S", -1.0)
    taken = store_lock.take(folder)
    monkeypatch.undo()
    slept.beat()
    assert slept.lost
    slept.release()  # a lost lock is not released
    assert store_lock.read(folder)[0] == taken.owner
    taken.release()


def test_a_beat_keeps_the_lock_and_changes_its_object(folder: StoreFolder) -> None:
    with lock(folder.path) as held:
        assert isinstance(held, store_lock.StoreLock)
        tags = set()
        for _ in range(3):
            held.beat()
            found = store_lock.read(folder)[1]
            assert found is not None
            tags.add(found.tag)
        assert len(tags) == 3
        assert not held.lost


def test_a_lock_that_was_removed_is_put_again_unless_somebody_took_it(folder: StoreFolder) -> None:
    with lock(folder.path) as held:
        assert isinstance(held, store_lock.StoreLock)
        folder.delete(LOCK)
        held.beat()
        assert not held.lost and store_lock.read(folder)[0] == held.owner


@pytest.mark.parametrize("is_stale", [True, False])
def test_of_many_who_find_a_stale_lock_or_none_exactly_one_takes_it(folder: StoreFolder, is_stale: bool) -> None:
    if is_stale:
        leave_behind(folder, replace(Owner.me(), started="gone"))
    won, start = [], threading.Barrier(8)

    def take() -> None:
        start.wait()
        with suppress(RunLocked):
            won.append(store_lock.take(folder))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    won[0].release()


def test_a_lock_from_which_no_run_came_leaves_nothing_behind(folder: StoreFolder) -> None:
    with pytest.raises(ValueError, match="refused"), lock(folder.path):
        raise ValueError("refused")
    assert folder.is_free()


def test_files_of_somebody_else_are_not_locked(folder: StoreFolder) -> None:
    folder.put("thesis.txt", b"")
    with pytest.raises(OutputError, match=r"somebody else: thesis\.txt"), lock(folder.path):
        pytest.fail("locked")
    assert folder.entries() == ["thesis.txt"]


@pytest.mark.parametrize("verb", ["create", "replace"])
def test_a_store_that_ignores_conditions_is_refused(
    folder: StoreFolder, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def careless(self: Store, key: str, data: bytes, *_: object) -> bool:
        self.put(key, data)
        return True

    monkeypatch.setattr(Store, verb, careless)
    with pytest.raises(OutputError, match="ignores If-None-Match or If-Match"), lock(folder.path):
        pytest.fail("locked")
    monkeypatch.undo()


HOLD = """
import sys
from dgbatch.runner.storage.lock import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_leaves_a_lock_that_the_next_one_takes(folder: StoreFolder) -> None:
    command = [sys.executable, "-c", HOLD, folder.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            with pytest.raises(RunLocked, match=f"pid {other.pid} on "), lock(folder.path):
                pytest.fail("two owners")
        finally:
            other.kill()
            other.wait()
        with lock(folder.path) as held:
            assert owner(folder.path) == held.owner
