from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from dgbatch.runner.dispatch import Dispatch, Task, Tries
from dgbatch.runner.poison import Search


@dataclass(frozen=True)
class Part:
    """As much of a Shard as dispatch looks at."""

    index: int
    selected: int = 8


def indices(given_out: list) -> list[int]:
    return [task.shard.index for task in given_out]


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
    assert [task.attempt for task in dispatch.next_for("w0", 1)] == [1]
    assert dispatch.failed("w0", 0)
    assert [shard.index for shard in dispatch.pending] == [1, 0]
    dispatch.next_for("w1", 1)
    assert [(task.shard.index, task.attempt) for task in dispatch.next_for("w0", 1)] == [(0, 2)]


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
    assert dispatch.lost("w0") == "again"
    dispatch.next_for("w0", 16)
    dispatch.finished("w0", 0)
    assert [(task.shard.index, task.attempt) for task in dispatch.next_for("w0", 16)] == [(1, 2)]
    assert dispatch.lost("w0") == "searching"


def test_shard_that_kills_is_searched_and_then_run_without_its_poison():
    dispatch = Dispatch([Part(0, 4)], shard_attempts=2)
    asked = []
    while not dispatch.done:
        (task,) = dispatch.next_for("w0", 8)
        asked.append((task.attempt, task.probe, dict(task.poison)))
        rows = set(task.probe or range(4)) - set(task.poison)
        if 2 in rows:
            dispatch.lost("w0", "boom")
        elif task.probe:
            dispatch.probed("w0", 0)
        else:
            dispatch.finished("w0", 0)
    assert asked == [
        (1, None, {}),
        (2, None, {}),
        (3, range(2), {}),
        (3, range(2, 3), {}),
        (3, range(2, 3), {}),  # died once: it may have been an accident
        (3, None, {2: "boom"}),
    ]
    assert not dispatch.tries


def test_shard_that_is_searched_is_alone_with_its_worker():
    dispatch = Dispatch([Part(0)], shard_attempts=1)
    dispatch.next_for("w0", 1)
    dispatch.lost("w0")
    dispatch.pending.append(Part(1))
    assert indices(dispatch.next_for("w0", 100)) == [0]
    assert dispatch.next_for("w0", 100) == []
    dispatch.probed("w0", 0)
    assert [shard.index for shard in dispatch.pending] == [1, 0]


def test_shard_of_which_no_part_kills_is_tried_once_more_and_given_up():
    dispatch = Dispatch([Part(0, 2)], shard_attempts=1)
    fates = []
    while not dispatch.done:
        (task,) = dispatch.next_for("w0", 2)
        fates.append(dispatch.probed("w0", 0) if task.probe else dispatch.lost("w0"))
    assert fates == ["searching", None, None, "given_up"]
    assert (dispatch.tries[0].attempts, list(dispatch.given_up)) == (2, [0])


def test_error_in_the_middle_of_a_search_counts_as_the_fault_it_is():
    dispatch = Dispatch([Part(0)], shard_attempts=2)
    for _ in range(2):
        dispatch.next_for("w0", 1)
        dispatch.lost("w0")
    (task,) = dispatch.next_for("w0", 1)
    assert dispatch.failed("w0", 0)
    assert dispatch.next_for("w0", 1) == [task]  # the same probe again
    assert not dispatch.failed("w0", 0)
    assert list(dispatch.given_up) == [0]


def test_shard_that_was_tried_before_waits_behind_the_fresh_ones_and_goes_on_where_it_was():
    tries = {0: Tries(Search(8, {3: "boom"}), attempts=4, faults=1)}
    dispatch = Dispatch([Part(0), Part(1)], shard_attempts=2, tries=tries)
    assert dispatch.poison_rows == 1
    assert indices(dispatch.next_for("w0", 100)) == [1]
    assert dispatch.next_for("w1", 100) == [Task(Part(0), 5, {3: "boom"})]
    assert dispatch.lost("w1") == "searching"


def test_shard_that_was_given_up_keeps_its_poison_and_its_count_and_loses_its_faults():
    dispatch = Dispatch([Part(0, 2)], shard_attempts=1)
    dispatch.next_for("w0", 1)
    dispatch.lost("w0")
    for fate in ("again", "poisoned"):
        dispatch.next_for("w0", 1)
        assert dispatch.lost("w0", "boom") == fate
    dispatch.next_for("w0", 1)
    assert not dispatch.failed("w0", 0)
    again = Dispatch([Part(0, 2)], shard_attempts=1, tries=dispatch.tries)
    assert again.next_for("w0", 1) == [Task(Part(0, 2), 3, {0: "boom"})]
    assert again.tries[0].faults == 0


def test_acquitted_rows_are_run_again():
    dispatch = Dispatch([Part(0, 2)], shard_attempts=1)
    for _ in range(2):
        dispatch.next_for("w0", 1)
        dispatch.lost("w0", "boom")
    dispatch.acquit()
    assert dispatch.next_for("w0", 1) == [Task(Part(0, 2), 2)]


def test_job_without_shards_is_done_at_once():
    assert Dispatch([]).done


@given(
    shards=st.integers(0, 12),
    events=st.lists(
        st.tuples(st.sampled_from(["ask", "finish", "fail", "lose", "lose"]), st.integers(0, 2)), max_size=80
    ),
)
def test_every_shard_is_in_one_place_whatever_happens(shards, events):
    dispatch = Dispatch([Part(i) for i in range(shards)], shard_attempts=3)
    tasks: dict[str, Task] = {}
    committed: list[int] = []
    for event, number in events:
        worker = f"w{number}"
        held = dispatch.held(worker)
        if event == "ask":
            for task in dispatch.next_for(worker, 12):
                tasks[worker] = task
        elif event == "lose":
            dispatch.lost(worker)
        elif held and event == "finish" and tasks[worker].probe:
            dispatch.probed(worker, held[0].index)
        elif held and event == "finish":
            dispatch.finished(worker, held[0].index)
            committed.append(held[0].index)
        elif held and event == "fail":
            dispatch.failed(worker, held[-1].index)
        everywhere = committed + [shard.index for shard in dispatch.pending] + list(dispatch.given_up)
        for worker_held in dispatch.running.values():
            everywhere += list(worker_held)
        assert sorted(everywhere) == list(range(shards))
        assert all(tries.faults < 3 for tries in dispatch.tries.values())
        assert not set(committed) & set(dispatch.tries)
    assert dispatch.done == (len(committed) + len(dispatch.given_up) == shards)


@given(kills=st.lists(st.sampled_from(["nothing", "row", "crowd"]), max_size=6), row=st.integers(0, 7))
def test_every_job_comes_to_an_end_and_loses_only_rows_that_kill(kills, row):
    dispatch = Dispatch([Part(i) for i in range(len(kills))])
    committed: dict[int, dict[int, str]] = {}
    turns = 0
    while not dispatch.done:
        turns += 1
        assert turns <= 20 * len(kills)
        tasks = dispatch.next_for("w0", 12)
        parts = [(task, set(task.probe or range(8)) - set(task.poison)) for task in tasks]
        deadly = {"nothing": lambda rows: False, "row": lambda rows: row in rows, "crowd": lambda rows: len(rows) > 7}
        if any(deadly[kills[task.shard.index]](rows) for task, rows in parts):
            dispatch.lost("w0", "boom")
            continue
        for task in tasks:
            if task.probe:
                dispatch.probed("w0", task.shard.index)
            else:
                dispatch.finished("w0", task.shard.index)
                committed[task.shard.index] = dict(task.poison)
    assert committed == {
        index: {row: "boom"} if kind == "row" else {} for index, kind in enumerate(kills) if kind != "crowd"
    }
    assert set(dispatch.given_up) == {index for index, kind in enumerate(kills) if kind == "crowd"}
