from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from dgbatch.runner.dispatch import Dispatch


@dataclass(frozen=True)
class Part:
    """As much of a Shard as dispatch looks at."""

    index: int
    selected: int = 8


def indices(given_out: list) -> list[int]:
    return [shard.index for shard, _ in given_out]


def test_shards_are_handed_out_in_order_and_each_once():
    dispatch = Dispatch([Part(0), Part(1), Part(2)])
    assert indices(dispatch.next_for("w0", 8)) == [0]
    assert indices(dispatch.next_for("w1", 8)) == [1]
    assert indices(dispatch.next_for("w0", 8)) == [2]
    assert dispatch.next_for("w1", 8) == []


def test_worker_gets_as_many_shards_as_cover_the_rows_it_asked_for():
    dispatch = Dispatch([Part(i, 4) for i in range(6)])
    assert indices(dispatch.next_for("w0", 10)) == [0, 1, 2]
    assert dispatch.next_for("w0", 0) == []


def test_failed_shard_goes_to_the_back_of_the_queue_one_attempt_older():
    dispatch = Dispatch([Part(0), Part(1)])
    assert [attempt for _, attempt in dispatch.next_for("w0", 1)] == [1]
    assert dispatch.failed("w0", 0)
    assert [shard.index for shard in dispatch.pending] == [1, 0]
    dispatch.next_for("w1", 1)
    assert [(shard.index, attempt) for shard, attempt in dispatch.next_for("w0", 1)] == [(0, 2)]


def test_lost_worker_gives_back_everything_it_held():
    dispatch = Dispatch([Part(0), Part(1), Part(2)])
    dispatch.next_for("w0", 16)
    dispatch.lost("w0")
    assert [shard.index for shard in dispatch.pending] == [2, 0, 1]
    assert dispatch.held("w0") == []
    assert not dispatch.busy


def test_shard_that_failed_before_is_tried_alone():
    dispatch = Dispatch([Part(0), Part(1), Part(2)])
    dispatch.next_for("w0", 16)
    dispatch.lost("w0")
    assert indices(dispatch.next_for("w1", 100)) == [2]  # the fresh one; 0 and 1 wait for a worker with empty hands
    assert dispatch.next_for("w1", 100) == []
    assert indices(dispatch.next_for("w2", 100)) == [0]  # one, whatever it asked for
    assert dispatch.next_for("w2", 100) == []
    dispatch.finished("w1", 2)
    assert indices(dispatch.next_for("w1", 100)) == [1]


def test_shard_without_attempts_left_is_set_aside_and_the_rest_goes_on():
    dispatch = Dispatch([Part(0), Part(1)], shard_attempts=2)
    dispatch.next_for("w0", 1)
    assert dispatch.failed("w0", 0)
    dispatch.next_for("w0", 1)
    dispatch.finished("w0", 1)
    dispatch.next_for("w0", 1)
    assert not dispatch.failed("w0", 0)
    assert list(dispatch.given_up) == [0]
    assert dispatch.done


def test_shard_that_died_beside_others_is_not_at_fault_until_it_dies_alone():
    dispatch = Dispatch([Part(0), Part(1)], shard_attempts=1)
    dispatch.next_for("w0", 16)
    dispatch.lost("w0")
    assert not dispatch.given_up
    dispatch.next_for("w0", 16)
    dispatch.finished("w0", 0)
    assert [(shard.index, attempt) for shard, attempt in dispatch.next_for("w0", 16)] == [(1, 2)]
    dispatch.lost("w0")
    assert list(dispatch.given_up) == [1]
    assert dispatch.done


def test_job_without_shards_is_done_at_once():
    assert Dispatch([]).done


@given(
    shards=st.integers(0, 12),
    events=st.lists(st.tuples(st.sampled_from(["ask", "finish", "fail", "lose"]), st.integers(0, 2)), max_size=80),
)
def test_every_shard_is_in_one_place_whatever_happens(shards, events):
    dispatch = Dispatch([Part(i) for i in range(shards)], shard_attempts=3)
    committed: list[int] = []
    for event, number in events:
        worker = f"w{number}"
        held = dispatch.held(worker)
        if event == "ask":
            dispatch.next_for(worker, 12)
        elif event == "lose":
            dispatch.lost(worker)
        elif held and event == "finish":
            dispatch.finished(worker, held[0].index)
            committed.append(held[0].index)
        elif held and event == "fail":
            dispatch.failed(worker, held[-1].index)
        everywhere = committed + [shard.index for shard in dispatch.pending] + list(dispatch.given_up)
        for worker_held in dispatch.running.values():
            everywhere += list(worker_held)
        assert sorted(everywhere) == list(range(shards))
        assert all(count <= 3 for count in dispatch.faults.values())
        assert all(count <= 4 for count in dispatch.attempts.values())
    assert dispatch.done == (len(committed) + len(dispatch.given_up) == shards)
