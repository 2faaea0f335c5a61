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
from dgbatch.runner.attempts import from_json, to_json
from dgbatch.runner.dispatch import Tries
from dgbatch.runner.layout import ATTEMPTS, refuse_foreign
from dgbatch.runner.piece import Key
from dgbatch.runner.poison import Blame, Search
from dgbatch.runner.run_folder import Run
from dgbatch.runner.sealed import sealed
from tests.runner.conftest import MakeJob
from tests.runner.small_run import new_run


@dataclass(frozen=True)
class Part:
    """As much of a Shard as is looked at."""

    index: int
    selected: int


PARTS: Any = [Part(0, 8), Part(7, 3)]


def seen() -> dict[Key, Tries]:
    search = Search(0, 8, {2: Blame("out_of_memory", "boom \ud800 ü")})
    search.start()
    search.died(Blame("worker_killed", "x"))
    return {(0, 0, 8): Tries(search, 5, 1), (7, 1, 3): Tries(Search(1, 3), 1)}


def forged(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A file whose checksum holds and whose content cannot be."""
    body = json.loads(to_json(seen(), "run"))
    del body["sha256"]
    change(body["pieces"])
    return sealed(body)


def test_what_was_kept_comes_back():
    assert from_json(to_json(seen(), "run"), "run", PARTS) == seen()


def test_shard_with_nothing_found_takes_a_few_bytes():
    assert b'"7-1-3": {"attempts": 1, "faults": 0}' in to_json(seen(), "run")


def test_file_of_another_run_is_refused():
    with pytest.raises(ValueError, match="belongs to another run"):
        from_json(to_json(seen(), "other"), "run", PARTS)


@pytest.mark.parametrize(
    "change",
    [
        lambda pieces: pieces["0-0-8"]["search"].update(stop=7),
        lambda pieces: pieces["0-0-8"]["search"].update(first=1),
        lambda pieces: pieces["0-0-8"]["search"].update(low=-1),
        lambda pieces: pieces["0-0-8"]["search"].update(low=7),
        lambda pieces: pieces["0-0-8"]["search"].update(high=9),
        lambda pieces: pieces["0-0-8"]["search"].update(high="4"),
        lambda pieces: pieces["0-0-8"]["search"].update(on=1),
        lambda pieces: pieces["0-0-8"]["search"].update(left=2.5),
        lambda pieces: pieces["0-0-8"]["search"].update(more=1),
        lambda pieces: pieces["0-0-8"]["search"].update(poison={"8": {"code": "worker_killed", "reason": "boom"}}),
        lambda pieces: pieces["0-0-8"]["search"].update(poison={"two": {"code": "worker_killed", "reason": "boom"}}),
        lambda pieces: pieces["0-0-8"]["search"].update(poison={"2": {"code": "bad_text", "reason": "boom"}}),
        lambda pieces: pieces["0-0-8"]["search"].update(poison={"2": "boom"}),
        lambda pieces: pieces["0-0-8"]["search"].update(poison=[2]),
        lambda pieces: pieces["0-0-8"]["search"].pop("poison"),
        lambda pieces: pieces["0-0-8"].update(search=None),
        lambda pieces: pieces["0-0-8"].update(attempts=True),
        lambda pieces: pieces["0-0-8"].pop("faults"),
        lambda pieces: pieces.update({"0-0-8": 3}),
        lambda pieces: pieces.update({"1-0-3": pieces["7-1-3"]}),
        lambda pieces: pieces.update({"7-1-4": pieces["7-1-3"]}),
        lambda pieces: pieces.update({"7-3-3": pieces["7-1-3"]}),
        lambda pieces: pieces.update({"7-01-3": pieces["7-1-3"]}),
        lambda pieces: pieces.update({"7": pieces["7-1-3"]}),
    ],
)
def test_numbers_that_cannot_be_are_refused(change):
    with pytest.raises(
        ValueError, match=r"numbers cannot be|not written as dgbatch|invalid literal|is no piece|not enough values"
    ):
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
    run.note_attempts({(1, 0, 4): Tries(Search(0, 4), 2, 1)})
    assert Run.open(run.path).attempts(shards) == {(1, 0, 4): Tries(Search(0, 4), 2, 1)}
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
