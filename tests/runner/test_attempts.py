"""What is kept of failed shards comes back as it was, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.errors import OutputError
from dgbatch.runner import attempts
from dgbatch.runner.attempts import from_json, to_json
from dgbatch.runner.dispatch import Tries
from dgbatch.runner.poison import Search
from dgbatch.runner.run_folder import ATTEMPTS, Run, refuse_foreign
from tests.runner.conftest import MakeJob
from tests.runner.small_run import new_run


@dataclass(frozen=True)
class Part:
    """As much of a Shard as is looked at."""

    index: int
    selected: int


PARTS: Any = [Part(0, 8), Part(7, 3)]


def seen() -> dict[int, Tries]:
    search = Search(8, {2: "boom \ud800 ü"})
    search.start()
    search.died("x")
    return {0: Tries(search, 5, 1), 7: Tries(Search(3), 1)}


def forged(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A file whose checksum holds and whose content cannot be."""
    body = json.loads(to_json(seen(), "run"))
    del body["sha256"]
    change(body["shards"])
    return json.dumps({**body, "sha256": attempts._digest(body)}).encode()


def test_what_was_kept_comes_back():
    assert from_json(to_json(seen(), "run"), "run", PARTS) == seen()


def test_shard_with_nothing_found_takes_a_few_bytes():
    assert b'"7": {"attempts": 1, "faults": 0}' in to_json(seen(), "run")


def test_file_of_another_run_is_refused():
    with pytest.raises(ValueError, match="belongs to another run"):
        from_json(to_json(seen(), "other"), "run", PARTS)


@pytest.mark.parametrize(
    "change",
    [
        lambda shards: shards["0"]["search"].update(rows=9),
        lambda shards: shards["0"]["search"].update(low=-1),
        lambda shards: shards["0"]["search"].update(low=7),
        lambda shards: shards["0"]["search"].update(high=9),
        lambda shards: shards["0"]["search"].update(high="4"),
        lambda shards: shards["0"]["search"].update(on=1),
        lambda shards: shards["0"]["search"].update(left=2.5),
        lambda shards: shards["0"]["search"].update(more=1),
        lambda shards: shards["0"]["search"].update(poison={"8": "boom"}),
        lambda shards: shards["0"]["search"].update(poison={"two": "boom"}),
        lambda shards: shards["0"]["search"].update(poison=[2]),
        lambda shards: shards["0"]["search"].pop("poison"),
        lambda shards: shards["0"].update(search=None),
        lambda shards: shards["0"].update(attempts=True),
        lambda shards: shards["0"].pop("faults"),
        lambda shards: shards.update({"0": 3}),
        lambda shards: shards.update({"1": shards["7"]}),
    ],
)
def test_numbers_that_cannot_be_are_refused(change):
    with pytest.raises(ValueError, match=r"numbers cannot be|not written as dgbatch|invalid literal"):
        from_json(forged(change), "run", PARTS)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_foreign_bytes_are_refused(data):
    with pytest.raises(ValueError, match=r"."):
        from_json(data, "run", PARTS)


@given(st.data())
def test_file_with_a_changed_byte_is_refused_or_says_the_same(data):
    whole = to_json(seen(), "run")
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    try:
        assert from_json(changed, "run", PARTS) == seen()
    except ValueError:
        assert changed != whole


@pytest.fixture
def run(make_job: MakeJob, some_rows: Callable[[int], pa.Table]) -> Run:
    return new_run(make_job(some_rows(10), "input.id=id", "workers.shard_rows=4"))


def test_run_keeps_attempts_and_begins_without_them(run: Run) -> None:
    shards = run.plan.shards
    assert run.attempts(shards) == {}
    run.note_attempts({1: Tries(Search(4), 2, 1)})
    assert Run.open(run.path).attempts(shards) == {1: Tries(Search(4), 2, 1)}
    assert run.events() == []


@pytest.mark.parametrize("damage", [b"", b"[" * 100_000, b"{}", b"\xff"])
def test_damaged_file_is_ignored_with_an_event(run: Run, damage: bytes) -> None:
    run.folder.put(ATTEMPTS, damage)
    assert run.attempts(run.plan.shards) == {}
    assert [event["kind"] for event in run.events()] == ["attempts_ignored"]


def test_folder_that_cannot_be_read_is_ignored_with_an_event(run: Run) -> None:
    run.folder.at(ATTEMPTS).mkdir()
    assert run.attempts(run.plan.shards) == {}
    assert [event["kind"] for event in run.events()] == ["attempts_ignored"]


def test_attempts_that_a_refused_run_left_are_no_foreign_file(tmp_path: Path) -> None:
    Path(tmp_path, ATTEMPTS).parent.mkdir()
    Path(tmp_path, ATTEMPTS).touch()
    refuse_foreign(str(tmp_path))
    Path(tmp_path, "other").touch()
    with pytest.raises(OutputError, match="files of somebody else: other"):
        refuse_foreign(str(tmp_path))
