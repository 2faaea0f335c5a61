from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.demo import tasks
from dgbatch.demo.checkpoint_files import CANVAS_LENGTH, generation_config
from dgbatch.demo.tasks import TASK_NAMES, examples, is_held_out

SEEDS = st.integers(0, 2**32)


def is_finished(cells: str, size: int) -> bool:
    """Every row, column and box holds every digit once."""
    rows = [cells[start : start + size] for start in range(0, size**2, size)]
    tall, wide = tasks.BOXES[size]
    columns = ["".join(row[column] for row in rows) for column in range(size)]
    boxes = [
        "".join(rows[r][c] for r in range(top, top + tall) for c in range(left, left + wide))
        for top in range(0, size, tall)
        for left in range(0, size, wide)
    ]
    return all(sorted(unit) == sorted("123456"[:size]) for unit in rows + columns + boxes)


def check_sudoku(prompt: str, answer: str, size: int, blanks: range) -> None:
    name, clues = prompt.split("\n", 1)
    clues, solution = clues.replace("\n", ""), answer.replace("\n", "")
    assert name == f"sudoku{size}"
    assert prompt.count("\n") == size and answer.count("\n") == size - 1
    assert clues.count("_") in blanks
    assert is_finished(solution, size)
    assert all(clue in ("_", digit) for clue, digit in zip(clues, solution, strict=True))
    solutions = list(tasks._solutions([0 if clue == "_" else int(clue) for clue in clues], size))
    assert solutions == [[int(digit) for digit in solution]]


def test_there_are_288_finished_grids_of_4x4() -> None:
    grids = {"".join(map(str, grid)) for grid in tasks._all_grids4()}
    assert len(grids) == 288
    assert all(is_finished(grid, 4) for grid in grids)


@given(SEEDS)
def test_sudoku4_has_one_solution_and_8_to_12_blanks(seed: int) -> None:
    for prompt, answer in tasks.sudoku4(np.random.default_rng(seed), 3):
        check_sudoku(prompt, answer, 4, range(8, 13))


@given(SEEDS, st.booleans())
def test_sudoku6_has_one_solution_and_12_to_22_blanks(seed: int, held_out: bool) -> None:
    for prompt, answer in tasks.sudoku6(np.random.default_rng(seed), 3, held_out):
        check_sudoku(prompt, answer, 6, range(12, 23))


@given(SEEDS)
def test_addition_steps_come_to_the_sum(seed: int) -> None:
    for prompt, answer in tasks.addition(np.random.default_rng(seed), 3):
        name, *columns = prompt.split(" ")
        steps = answer.split(" ")
        assert name == "add" and 3 <= len(columns) <= 16
        assert (
            [step[0] for step in steps] == [column[0] for column in columns] == list("abcdefghijklmnop"[: len(steps)])
        )
        above, below = (int("".join(column[place] for column in reversed(columns))) for place in (1, 2))
        total = steps[-1][-2] + "".join(
            step[-1] for step in reversed(steps)
        )  # the last carry, then each column's digit
        assert int(total) == above + below
        assert all(eval(left) == int(right) for left, right in (step[1:].split("=") for step in steps))
        carries = [0] + [int(step[-2]) for step in steps[:-1]]
        assert [step[1:6] for step in steps] == [f"{c[1]}+{c[2]}+{k}" for c, k in zip(columns, carries, strict=True)]


@given(SEEDS)
def test_sorting_orders_records_by_letter(seed: int) -> None:
    for prompt, answer in tasks.sorting(np.random.default_rng(seed), 3):
        name, *records = prompt.split(" ")
        assert name == "sort" and 3 <= len(records) <= 24
        assert len({record[0] for record in records}) == len(records)
        assert answer.split(" ") == sorted(records)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_equal_seeds_give_equal_examples_and_others_do_not(task: str) -> None:
    first = examples(task, seed=7, rows=40, held_out=True)
    assert first == examples(task, seed=7, rows=40, held_out=True)
    assert first[:10] == examples(task, seed=7, rows=10, held_out=True)
    assert first != examples(task, seed=8, rows=40, held_out=True)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_training_and_evaluation_share_no_prompt(task: str) -> None:
    trained, held_out = (examples(task, seed=1, rows=300, held_out=side) for side in (False, True))
    assert not any(is_held_out(prompt) for prompt, _ in trained)
    assert all(is_held_out(prompt) for prompt, _ in held_out)
    assert len({prompt for prompt, _ in trained + held_out}) == 600


def test_training_and_evaluation_dig_different_grids() -> None:
    trained, held_out = (tasks._dug_grids6(side)[0] for side in (False, True))
    assert not {grid.tobytes() for grid in trained} & {grid.tobytes() for grid in held_out}


@given(SEEDS)
def test_symmetries_keep_a_finished_grid_finished(seed: int) -> None:
    grid = tasks._dug_grids6(True)[0][0]
    for cells in tasks._symmetric_cells6(np.random.default_rng(seed), 5):
        assert sorted(cells) == list(range(36))
        assert is_finished("".join(map(str, grid[cells])), 6)


def test_a_contradiction_among_clues_has_no_solution() -> None:
    assert not list(tasks._solutions([1, 1] + [0] * 14, 4))
    assert not tasks._has_one_solution([0] * 16, 4)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_answers_fit_what_the_checkpoint_generates(task: str) -> None:
    longest = max(len(answer) + 1 for _, answer in examples(task, seed=2, rows=500, held_out=True))
    assert longest <= generation_config()["max_new_tokens"]
    canvases = {-(-(len(answer) + 1) // CANVAS_LENGTH) for _, answer in examples(task, seed=2, rows=500, held_out=True)}
    assert canvases == {"sudoku4": {1}, "sudoku6": {1}, "add": {1, 2, 3, 4}, "sort": {1, 2}}[task]
