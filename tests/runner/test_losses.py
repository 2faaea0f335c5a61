"""What goes wrong is counted by its reason: pieces that have to be given out again, workers that are gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from dgbatch.errors import RunFailed
from dgbatch.runner.actors import Actor
from dgbatch.runner.dispatch import Dispatch
from dgbatch.runner.losses import Losses
from dgbatch.runner.metering.meter import Meter
from dgbatch.runner.piece import Piece
from dgbatch.runner.report import Failure, Report
from dgbatch.runner.run_folder import Run
from dgbatch.runner.telling import Telling
from tests.runner.conftest import MakeJob
from tests.runner.small_run import new_run

Rows = Callable[[int], pa.Table]


class Case:
    """A run of six shards with one worker, w0."""

    def __init__(self, run: Run):
        spec, plan = run.spec, run.plan
        self.run = run
        self.meter = Meter(spec, run, run.ledger())
        self.dispatch = Dispatch([Piece(shard, 0, shard.selected) for shard in plan.shards], shard_attempts=2)
        telling = Telling(spec.name, run.path, plan.expected, len(plan.shards), lambda progress: None)
        self.losses = Losses(spec, plan, run, self.dispatch, telling, self.meter)
        self.worker = Actor("w0", None, 0.0, Report(loaded=True, device="d", canvases=1))

    def gives(self, rows: int) -> None:
        self.dispatch.next_for("w0", rows)

    @property
    def counted(self) -> tuple[dict[str, int], dict[str, int]]:
        self.meter.look(self.run, self.dispatch, [], left=6, at_once=True)
        return dict(self.meter.moment.retries), dict(self.meter.moment.restarts)


@pytest.fixture
def case(make_job: MakeJob, some_rows: Rows) -> Case:
    return Case(new_run(make_job(some_rows(12), "input.id=id", "workers.shard_rows=2")))


def test_a_piece_that_fails_is_counted_as_often_as_it_is_tried_again(case: Case) -> None:
    for _ in range(2):
        case.dispatch.pending.rotate(-5 if case.dispatch.tries else 0)
        case.gives(2)
        (piece,) = case.dispatch.held("w0")
        case.losses.piece_failed(case.worker, Failure("OSError", "disk", piece.place))
    assert case.dispatch.given_up and case.counted == ({"shard_failed": 1}, {})


@pytest.mark.parametrize("why", ["died", "stalled", "engine_failed"])
def test_every_piece_of_a_lost_worker_is_counted(case: Case, why: Any) -> None:
    case.gives(4)
    case.losses.worker_lost(case.worker, "gone", why)
    assert case.counted == ({"worker_lost": 2}, {why: 1})


def test_a_device_without_memory_is_a_reason_of_its_own(case: Case) -> None:
    case.gives(4)
    case.losses.worker_lost(case.worker, "no memory", "out_of_memory")
    assert case.counted == ({"out_of_memory": 2}, {"out_of_memory": 1})


def test_a_search_is_counted_by_its_probes(case: Case) -> None:
    while not any(tries.search.on for tries in case.dispatch.tries.values()):
        case.dispatch.pending.rotate(-5 if case.dispatch.tries else 0)
        case.gives(2)
        case.losses.worker_lost(case.worker, "gone", "died")
    case.dispatch.pending.rotate(1)
    case.gives(2)
    case.losses.worker_lost(case.worker, "gone", "died")
    retries, restarts = case.counted
    assert retries == {"worker_lost": 2, "probe": 1} and restarts == {"died": 3}


def test_a_worker_that_had_to_leave_is_one_and_one_that_ends_with_the_job_is_none(case: Case) -> None:
    case.gives(4)
    case.losses.worker_left(case.worker, preempted=False)
    assert case.counted == ({}, {})
    case.gives(4)
    case.losses.worker_left(case.worker, preempted=True)
    assert case.counted == ({"preempted": 2}, {"preempted": 1})


def test_workers_that_cannot_load_are_counted_until_it_is_too_much(case: Case) -> None:
    for _ in range(2):
        case.losses.worker_lost(case.worker, "no file", "load_failed")
    with pytest.raises(RunFailed, match="3 workers in a row"):
        case.losses.worker_lost(case.worker, "no file", "load_failed")
    assert case.counted[1] == {"load_failed": 3}
