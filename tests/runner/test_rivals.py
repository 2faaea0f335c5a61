"""Two attempts at the same rows: the later one loses, and says so only when its tokens are others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pytest

from dgbatch.errors import RunFailed
from dgbatch.runner.run_folder import Run
from tests.runner.conftest import MakeJob
from tests.runner.small_run import new_run, write_attempt

Rows = Callable[[int], pa.Table]


@pytest.fixture(params=["parquet", "arrow"])
def run(request: pytest.FixtureRequest, make_job: MakeJob, some_rows: Rows) -> Run:
    return new_run(make_job(some_rows(8), "input.id=id", "workers.shard_rows=4", f"output.format={request.param}"))


def test_the_attempt_that_comes_second_with_the_same_tokens_loses_quietly(run: Run) -> None:
    first, second = (write_attempt(run, run.plan.shards[0]) for _ in range(2))
    assert run.commit(first)
    assert not run.commit(second)
    assert run.commits() == [first]


def test_the_attempt_that_comes_second_with_other_tokens_names_both_files_and_the_row(run: Run) -> None:
    first = write_attempt(run, run.plan.shards[0], bad=lambda row_id: row_id == "r0", text="yes")
    second = write_attempt(run, run.plan.shards[0], text="no")
    run.commit(first)
    with pytest.raises(RunFailed, match=r"other tokens for row 'r1', sample 0: data/part-.* stays, and data/") as told:
        run.commit(second)
    assert first.data and second.data
    assert first.data.name in str(told.value) and second.data.name in str(told.value)
    assert run.commits() == [first]


def test_a_row_that_one_attempt_quarantined_is_no_contradiction(run: Run) -> None:
    run.commit(write_attempt(run, run.plan.shards[0], bad=lambda row_id: row_id == "r2"))
    assert not run.commit(write_attempt(run, run.plan.shards[0], bad=lambda row_id: row_id == "r1"))


def test_an_attempt_without_any_rows_contradicts_nobody(run: Run) -> None:
    run.commit(write_attempt(run, run.plan.shards[0], bad=lambda row_id: True))
    assert not run.commit(write_attempt(run, run.plan.shards[0]))


def test_a_piece_of_a_committed_shard_is_held_against_it_and_never_put(run: Run) -> None:
    ledger = run.ledger()
    whole, piece = (write_attempt(run, run.plan.shards[0]) for _ in range(2))
    assert run.commit(whole, ledger)
    assert not run.commit(replace(piece, span=(0, 2)), ledger)
    assert ledger.counted == run.commits() == [whole]
    other = write_attempt(run, run.plan.shards[0], text="no")
    with pytest.raises(RunFailed, match="two attempts at shard 0 wrote other tokens"):
        run.commit(replace(other, span=(0, 2)), ledger)
    assert not run.folder.exists(replace(other, span=(0, 2)).name)


def test_a_driver_that_lost_to_one_it_did_not_know_learns_what_stands(run: Run) -> None:
    ledger = run.ledger()
    theirs, ours = (write_attempt(run, run.plan.shards[1]) for _ in range(2))
    run.commit(theirs)
    assert not run.commit(ours, ledger)
    assert ledger.counted == [theirs] and ledger.is_done(1)


def test_a_committed_file_that_is_gone_is_for_verify_to_find(run: Run) -> None:
    first, second = (write_attempt(run, run.plan.shards[0], text=text) for text in ("yes", "no"))
    run.commit(first)
    assert first.data
    run.folder.delete(first.data.name)
    assert not run.commit(second)
