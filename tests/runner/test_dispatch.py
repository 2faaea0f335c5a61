from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dgbatch.runner.dispatch import Dispatch, Tries, known
from dgbatch.runner.piece import Piece, Task
from dgbatch.runner.poison import Blame, Search


@dataclass(frozen=True)
class Part:
    """As much of a Shard as dispatch looks at."""

    index: int
    selected: int = 8


def whole(index: int, rows: int = 8) -> Any:
    return Piece.whole(Part(index, rows))  # type: ignore[arg-type]


BOOM = Blame("worker_killed", "boom")
SHORT = Blame("out_of_memory", "no memory")


def indices(given_out: list) -> list[int]:
    return [task.piece.shard.index for task in given_out]


def waiting(dispatch: Dispatch) -> list[int]:
    return [piece.shard.index for piece in dispatch.pending]


def test_shards_are_handed_out_in_order_and_each_once():
    dispatch = Dispatch([whole(0), whole(1), whole(2)])
    assert indices(dispatch.next_for("w0", 8)) == [0]
    assert indices(dispatch.next_for("w1", 8)) == [1]
    assert indices(dispatch.next_for("w0", 8)) == [2]
    assert dispatch.next_for("w1", 8) == []


def test_worker_gets_as_many_shards_as_cover_the_rows_it_asked_for():
    dispatch = Dispatch([whole(i, 4) for i in range(6)])
    assert indices(dispatch.next_for("w0", 10)) == [0, 1, 2]
    assert dispatch.next_for("w0", 0) == []


def test_failed_shard_goes_to_the_back_of_the_queue_one_attempt_older():
    dispatch = Dispatch([whole(0), whole(1)])
    assert [task.attempt for task in dispatch.next_for("w0", 1)] == [1]
    assert dispatch.failed("w0", (0, 0))
    assert waiting(dispatch) == [1, 0]
    dispatch.next_for("w1", 1)
    assert [(task.piece.shard.index, task.attempt) for task in dispatch.next_for("w0", 1)] == [(0, 2)]


def test_lost_worker_gives_back_everything_it_held():
    dispatch = Dispatch([whole(0), whole(1), whole(2)])
    dispatch.next_for("w0", 16)
    dispatch.lost("w0", BOOM)
    assert waiting(dispatch) == [2, 0, 1]
    assert dispatch.held("w0") == []
    assert dispatch.busy == 0


def test_shard_that_failed_before_is_tried_alone():
    dispatch = Dispatch([whole(0), whole(1), whole(2)])
    dispatch.next_for("w0", 16)
    dispatch.lost("w0", BOOM)
    assert indices(dispatch.next_for("w1", 100)) == [2]  # the fresh one; 0 and 1 wait for a worker with empty hands
    assert dispatch.next_for("w1", 100) == []
    assert indices(dispatch.next_for("w2", 100)) == [0]  # one, whatever it asked for
    assert dispatch.next_for("w2", 100) == []
    dispatch.finished("w1", (2, 0))
    assert indices(dispatch.next_for("w1", 100)) == [1]


def test_shard_without_attempts_left_is_set_aside_and_the_rest_goes_on():
    dispatch = Dispatch([whole(0), whole(1)], shard_attempts=2)
    dispatch.next_for("w0", 1)
    assert dispatch.failed("w0", (0, 0))
    dispatch.next_for("w0", 1)
    dispatch.finished("w0", (1, 0))
    dispatch.next_for("w0", 1)
    assert not dispatch.failed("w0", (0, 0))
    assert list(dispatch.given_up) == [(0, 0, 8)]
    assert dispatch.done


def test_shard_that_died_beside_others_is_not_at_fault_until_it_dies_alone():
    dispatch = Dispatch([whole(0), whole(1)], shard_attempts=1)
    dispatch.next_for("w0", 16)
    assert dispatch.lost("w0", BOOM) == "again"
    dispatch.next_for("w0", 16)
    dispatch.finished("w0", (0, 0))
    assert [(task.piece.shard.index, task.attempt) for task in dispatch.next_for("w0", 16)] == [(1, 2)]
    assert dispatch.lost("w0", BOOM) == "searching"


def test_shard_that_kills_is_searched_and_then_run_without_its_poison():
    dispatch = Dispatch([whole(0, 4)], shard_attempts=2)
    asked = []
    while not dispatch.done:
        (task,) = dispatch.next_for("w0", 8)
        asked.append((task.attempt, task.probe, dict(task.poison)))
        rows = set(task.probe or range(4)) - set(task.poison)
        if 2 in rows:
            dispatch.lost("w0", BOOM)
        elif task.probe:
            dispatch.probed("w0", (0, 0))
        else:
            dispatch.finished("w0", (0, 0))
    assert asked == [
        (1, None, {}),
        (2, None, {}),
        (3, range(2), {}),
        (3, range(2, 3), {}),
        (3, range(2, 3), {}),  # died once: it may have been an accident
        (3, None, {2: BOOM}),
    ]
    assert not dispatch.tries


def test_shard_that_is_searched_is_alone_with_its_worker():
    dispatch = Dispatch([whole(0)], shard_attempts=1)
    dispatch.next_for("w0", 1)
    dispatch.lost("w0", BOOM)
    dispatch.pending.append(whole(1))
    assert indices(dispatch.next_for("w0", 100)) == [0]
    assert dispatch.next_for("w0", 100) == []
    dispatch.probed("w0", (0, 0))
    assert waiting(dispatch) == [1, 0]


def test_shard_of_which_no_part_kills_is_tried_once_more_and_given_up():
    dispatch = Dispatch([whole(0, 2)], shard_attempts=1)
    fates = []
    while not dispatch.done:
        (task,) = dispatch.next_for("w0", 2)
        fates.append(dispatch.probed("w0", (0, 0)) if task.probe else dispatch.lost("w0", BOOM))
    assert fates == ["searching", None, None, "given_up"]
    assert (dispatch.tries[0, 0, 2].attempts, list(dispatch.given_up)) == (2, [(0, 0, 2)])


def test_error_in_the_middle_of_a_search_counts_as_the_fault_it_is():
    dispatch = Dispatch([whole(0)], shard_attempts=2)
    for _ in range(2):
        dispatch.next_for("w0", 1)
        dispatch.lost("w0", BOOM)
    (task,) = dispatch.next_for("w0", 1)
    assert dispatch.failed("w0", (0, 0))
    assert dispatch.next_for("w0", 1) == [task]  # the same probe again
    assert not dispatch.failed("w0", (0, 0))
    assert list(dispatch.given_up) == [(0, 0, 8)]


def test_shard_that_was_tried_before_waits_behind_the_fresh_ones_and_goes_on_where_it_was():
    tries = {(0, 0, 8): Tries(Search(0, 8, {3: BOOM}), attempts=4, faults=1)}
    dispatch = Dispatch([whole(0), whole(1)], shard_attempts=2, tries=tries)
    assert dispatch.poison_rows == 1
    assert indices(dispatch.next_for("w0", 100)) == [1]
    assert dispatch.next_for("w1", 100) == [Task(whole(0), 5, {3: BOOM})]
    assert dispatch.lost("w1", BOOM) == "searching"


def test_shard_that_was_given_up_keeps_its_poison_and_its_count_and_loses_its_faults():
    dispatch = Dispatch([whole(0, 2)], shard_attempts=1)
    dispatch.next_for("w0", 1)
    dispatch.lost("w0", BOOM)
    for fate in ("again", "poisoned"):
        dispatch.next_for("w0", 1)
        assert dispatch.lost("w0", BOOM) == fate
    dispatch.next_for("w0", 1)
    assert not dispatch.failed("w0", (0, 0))
    again = Dispatch([whole(0, 2)], shard_attempts=1, tries=dispatch.tries)
    assert again.next_for("w0", 1) == [Task(whole(0, 2), 3, {0: BOOM})]
    assert again.tries[0, 0, 2].faults == 0


def test_acquitted_rows_are_run_again():
    dispatch = Dispatch([whole(0, 2)], shard_attempts=1)
    for _ in range(2):
        dispatch.next_for("w0", 1)
        dispatch.lost("w0", BOOM)
    dispatch.acquit()
    assert dispatch.next_for("w0", 1) == [Task(whole(0, 2), 2)]


def test_job_without_shards_is_done_at_once():
    assert Dispatch([]).done


def test_short_device_puts_its_pieces_back_to_be_tried_alone_and_blames_none():
    dispatch = Dispatch([whole(0), whole(1), whole(2)], shard_attempts=1)
    dispatch.next_for("w0", 16)
    dispatch.short("w0")
    assert waiting(dispatch) == [2, 0, 1]
    assert [(each.attempts, each.faults) for each in dispatch.tries.values()] == [(1, 0), (1, 0)]
    assert indices(dispatch.next_for("w0", 16)) == [2]
    dispatch.finished("w0", (2, 0))
    assert dispatch.next_for("w0", 16) == [Task(whole(0), 2)]


def test_piece_that_runs_out_of_memory_with_one_canvas_is_searched_at_once():
    dispatch = Dispatch([whole(0, 4)], shard_attempts=3)
    dispatch.next_for("w0", 4)
    assert dispatch.lost("w0", SHORT) == "searching"
    while dispatch.tries:
        (task,) = dispatch.next_for("w0", 4)
        if 1 in set(task.probe or range(4)) - set(task.poison):
            dispatch.lost("w0", SHORT)
        elif task.probe:
            dispatch.probed("w0", (0, 0))
        else:
            dispatch.finished("w0", (0, 0))
    assert task == Task(whole(0, 4), 2, {1: SHORT})


def test_device_that_is_short_during_a_search_says_nothing_about_the_suspects():
    dispatch = Dispatch([whole(0, 4)], shard_attempts=1)
    dispatch.next_for("w0", 4)
    dispatch.lost("w0", BOOM)
    probe = dispatch.next_for("w0", 4)
    dispatch.short("w0")
    assert dispatch.next_for("w1", 4) == probe


def test_worker_that_leaves_puts_its_pieces_in_front_as_if_nothing_had_been():
    dispatch = Dispatch([whole(i) for i in range(4)], shard_attempts=1)
    dispatch.next_for("w0", 16)
    dispatch.left("w0")
    assert waiting(dispatch) == [0, 1, 2, 3]
    assert not dispatch.tries
    assert dispatch.busy == 0


def test_rows_that_a_leaving_worker_had_done_are_not_given_out_again():
    dispatch = Dispatch([whole(0), whole(1)])
    dispatch.next_for("w0", 1)
    dispatch.finished("w0", (0, 0), 3)
    assert dispatch.next_for("w1", 1) == [Task(Piece(Part(0), 3, 8))]
    dispatch.finished("w1", (0, 3), 8)
    assert waiting(dispatch) == [1]


def test_rest_of_a_piece_keeps_what_is_known_of_its_rows():
    tries = {(0, 0, 8): Tries(Search(0, 8, {1: BOOM, 5: SHORT}), attempts=4)}
    dispatch = Dispatch([whole(0)], tries=tries)
    dispatch.next_for("w0", 1)
    dispatch.finished("w0", (0, 0), 3)
    assert dispatch.poison_rows == 1
    assert dispatch.next_for("w0", 1) == [Task(Piece(Part(0), 3, 8), 5, {5: SHORT})]


def test_idle_worker_takes_over_half_of_the_piece_with_most_rows_not_begun():
    dispatch = Dispatch([whole(0, 64), whole(1, 64)])
    dispatch.next_for("w0", 1)
    dispatch.next_for("w1", 1)
    dispatch.heard("w0", [((0, 0), 30)])
    dispatch.heard("w1", [((1, 0), 40)])
    assert dispatch.to_cut("w2", 8) == ("w1", (1, 0))
    assert dispatch.to_cut("w2", 8) is None  # it has been promised a part
    assert dispatch.to_cut("w3", 8) == ("w0", (0, 0))
    assert dispatch.to_cut("w4", 8) is None
    dispatch.cut("w1", (1, 0), 44)
    assert dispatch.held("w1") == [Piece(Part(1, 64), 0, 44)]
    assert dispatch.next_for("w1", 100) == []
    assert dispatch.next_for("w2", 100) == [Task(Piece(Part(1, 64), 44, 64))]
    dispatch.heard("w1", [((1, 0), 20)])
    assert dispatch.to_cut("w4", 8) == ("w1", (1, 0))  # and again
    dispatch.cut("w1", (1, 0), None)
    assert dispatch.held("w1") == [Piece(Part(1, 64), 0, 44)]


def test_nothing_is_taken_over_while_anything_waits_or_where_little_is_left():
    dispatch = Dispatch([whole(0, 64), whole(1, 64)])
    dispatch.next_for("w0", 1)
    assert dispatch.to_cut("w1", 8) is None
    dispatch.next_for("w1", 1)
    dispatch.finished("w1", (1, 0))
    dispatch.heard("w0", [((0, 0), 7)])
    assert dispatch.to_cut("w1", 8) is None
    assert dispatch.to_cut("w1", 7) == ("w0", (0, 0))


def test_piece_that_something_happened_to_is_never_cut():
    dispatch = Dispatch([whole(0, 64)])
    dispatch.next_for("w0", 1)
    dispatch.lost("w0", BOOM)
    dispatch.next_for("w0", 1)
    dispatch.heard("w0", [((0, 0), 64)])
    assert dispatch.to_cut("w1", 2) is None


def test_worker_that_dies_before_it_has_cut_loses_the_whole_piece_and_one_that_dies_after_only_its_part():
    dispatch = Dispatch([whole(0, 64)])
    dispatch.next_for("w0", 1)
    assert dispatch.to_cut("w1", 8)
    dispatch.lost("w0", BOOM)
    assert [piece.rows for piece in dispatch.pending] == [64]
    dispatch = Dispatch([whole(0, 64)])
    dispatch.next_for("w0", 1)
    assert dispatch.to_cut("w1", 8)
    dispatch.cut("w0", (0, 0), 40)
    dispatch.lost("w0", BOOM)
    assert list(dispatch.pending) == [Piece(Part(0, 64), 0, 40)]
    assert dispatch.next_for("w1", 1) == [Task(Piece(Part(0, 64), 40, 64))]


def test_worker_that_dies_before_it_takes_what_was_cut_off_for_it_leaves_it_to_others():
    for dies_first in (True, False):
        dispatch = Dispatch([whole(0, 64)])
        dispatch.next_for("w0", 1)
        assert dispatch.to_cut("w1", 8)
        if dies_first:
            dispatch.lost("w1", BOOM)
        dispatch.cut("w0", (0, 0), 40)
        if not dies_first:
            dispatch.finished("w0", (0, 0))
            assert not dispatch.done
            dispatch.lost("w1", BOOM)
        assert list(dispatch.pending) == [Piece(Part(0, 64), 40, 64)]
        assert dispatch.next_for("w2", 1) == [Task(Piece(Part(0, 64), 40, 64))]


def test_what_is_known_of_a_piece_is_known_of_the_pieces_that_took_its_place():
    tries = {
        (0, 0, 8): Tries(Search(0, 8, {1: BOOM, 6: SHORT}), attempts=4, faults=2),
        (1, 0, 4): Tries(Search(0, 4), attempts=2, faults=1),
        (9, 0, 8): Tries(Search(0, 8), attempts=1),
    }
    assert known([Piece(Part(0), 4, 8), Piece(Part(1), 0, 4), Piece(Part(1), 4, 8)], tries) == {
        (0, 4, 8): Tries(Search(4, 8, {6: SHORT}), attempts=4),
        (1, 0, 4): Tries(Search(0, 4), attempts=2, faults=1),
    }


EVENTS = ["ask", "finish", "finish some", "fail", "lose", "lose", "short", "leave", "begin", "steal", "steal"]


@given(
    shards=st.integers(0, 8),
    events=st.lists(
        st.tuples(st.sampled_from(EVENTS), st.integers(0, 3), st.integers(0, 12), st.booleans()), max_size=120
    ),
)
def test_every_row_is_in_one_place_whatever_happens_and_comes_out_once(shards, events):
    """Workers ask, commit, fail, die, run short of memory, leave, take over halves; then all that is left is done."""
    dispatch = Dispatch([whole(i, 12) for i in range(shards)], shard_attempts=3)
    tasks: dict[tuple[str, tuple[int, int]], Task] = {}
    begun: dict[tuple[str, tuple[int, int]], int] = {}  # the first row that the worker's engine was not given
    committed: list[tuple[int, int]] = []

    def rows(piece: Piece) -> list[tuple[int, int]]:
        return [(piece.shard.index, row) for row in range(piece.first, piece.stop)]

    def ask(worker: str, wanted: int) -> None:
        for task in dispatch.next_for(worker, wanted):
            tasks[worker, task.piece.place] = task
            begun[worker, task.piece.place] = task.piece.first

    def finish(worker: str, piece: Piece, stop: int) -> None:
        if tasks[worker, piece.place].probe:
            dispatch.probed(worker, piece.place)
        elif stop > piece.first:
            committed.extend(row for row in rows(piece) if row[1] < stop)
            dispatch.finished(worker, piece.place, stop)

    for event, number, much, flag in events:
        worker = f"w{number}"
        held = dispatch.held(worker)
        piece = held[-flag] if held else None
        if event == "ask":
            ask(worker, 2 * much)
        elif event == "lose":
            dispatch.lost(worker, SHORT if flag else BOOM)
        elif event == "short":
            dispatch.short(worker)
        elif event == "leave":
            dispatch.left(worker)
        elif event == "steal" and (found := dispatch.to_cut(worker, 2)):
            owner, place = found
            assert owner != worker
            if much == 0:
                dispatch.lost(owner, BOOM)  # it never answers
            else:
                (cut,) = (each for each in dispatch.held(owner) if each.place == place)
                left = cut.stop - begun[owner, place]
                dispatch.cut(owner, place, None if left < 2 else cut.stop - left // 2)
        elif piece and event == "begin":
            begun[worker, piece.place] = min(piece.stop, begun[worker, piece.place] + much)
            dispatch.heard(worker, [(piece.place, piece.stop - begun[worker, piece.place])])
        elif piece and event == "finish":
            finish(worker, piece, piece.stop)
        elif piece and event == "finish some":
            finish(worker, piece, min(piece.stop, piece.first + much))
        elif piece and event == "fail":
            dispatch.failed(worker, piece.place)
        everywhere = list(committed)
        promised = [each for each in dispatch._promised.values() if each]
        for each in (*dispatch.pending, *promised, *dispatch.given_up.values()):
            everywhere += rows(each)
        for each in dispatch.running.values():
            assert each
            everywhere += [row for held_piece in each.values() for row in rows(held_piece)]
        assert sorted(everywhere) == [(i, row) for i in range(shards) for row in range(12)]
        assert all(tries.faults < 3 for tries in dispatch.tries.values())
        assert dispatch.poison_rows == len(list(dispatch.poison()))

    for number in range(4):
        dispatch.left(f"w{number}")
    while not dispatch.done:
        ask("w0", 12)
        for piece in dispatch.held("w0"):
            finish("w0", piece, piece.stop)
    given_up = [row for piece in dispatch.given_up.values() for row in rows(piece)]
    assert sorted(committed + given_up) == [(i, row) for i in range(shards) for row in range(12)]


@given(kills=st.lists(st.sampled_from(["nothing", "row", "crowd"]), max_size=6), row=st.integers(0, 7))
def test_every_job_comes_to_an_end_and_loses_only_rows_that_kill(kills, row):
    dispatch = Dispatch([whole(i) for i in range(len(kills))])
    committed: dict[int, dict[int, Blame]] = {}
    turns = 0
    while not dispatch.done:
        turns += 1
        assert turns <= 20 * len(kills)
        tasks = dispatch.next_for("w0", 12)
        parts = [(task, set(task.probe or range(8)) - set(task.poison)) for task in tasks]
        deadly = {"nothing": lambda rows: False, "row": lambda rows: row in rows, "crowd": lambda rows: len(rows) > 7}
        if any(deadly[kills[task.piece.shard.index]](rows) for task, rows in parts):
            dispatch.lost("w0", BOOM)
            continue
        for task in tasks:
            if task.probe:
                dispatch.probed("w0", task.piece.place)
            else:
                dispatch.finished("w0", task.piece.place)
                committed[task.piece.shard.index] = dict(task.poison)
    assert committed == {
        index: {row: BOOM} if kind == "row" else {} for index, kind in enumerate(kills) if kind != "crowd"
    }
    assert {index for index, _, _ in dispatch.given_up} == {
        index for index, kind in enumerate(kills) if kind == "crowd"
    }
