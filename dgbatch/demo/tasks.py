"""The four puzzles the demo checkpoint solves: each has one right answer that a machine can check.

Examples come from a seeded generator, never from a file. Training and evaluation can share no puzzle, whatever their
seeds: a hash of the prompt decides once and for all on which side it lies (`is_held_out`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from hashlib import blake2b
from itertools import product

import numpy as np

Example = tuple[str, str]  # prompt, answer

HELD_OUT_SHARE = 8  # one prompt in eight is never trained on
LETTERS = "abcdefghijklmnopqrstuvwxyz"
BOXES = {4: (2, 2), 6: (2, 3)}  # rows and columns of a box, by size of the grid


def examples(task: str, seed: int, rows: int, held_out: bool) -> list[Example]:
    """The first `rows` examples of a task that lie on the asked side; no prompt comes twice.

    Equal arguments give equal examples.
    """
    chosen: dict[str, str] = {}
    for prompt, answer in stream(task, seed, held_out):
        chosen.setdefault(prompt, answer)
        if len(chosen) == rows:
            return list(chosen.items())
    raise AssertionError("the stream of examples never ends")


def stream(task: str, seed: int, held_out: bool, batch: int = 256) -> Iterator[Example]:
    """Examples of one task without end, all from the asked side."""
    rng = np.random.default_rng([seed, int(held_out), TASK_NAMES.index(task)])
    while True:
        for prompt, answer in TASKS[task](rng, batch, held_out):
            if is_held_out(prompt) == held_out:
                yield prompt, answer


def is_held_out(prompt: str) -> bool:
    """Whether a prompt belongs to evaluation; training skips it."""
    return blake2b(prompt.encode(), digest_size=2).digest()[0] % HELD_OUT_SHARE == 0


# ---- sudoku


def sudoku4(rng: np.random.Generator, rows: int, held_out: bool = False) -> list[Example]:
    """4x4 grids with 8 to 12 blanks and one solution, drawn as reasoning-gym draws mini_sudoku."""
    grids = _all_grids4()
    differs = grids[:, None, :] != grids[None, :, :]  # (grid, grid, cell)
    solution = rng.integers(len(grids), size=rows)
    blanks_wanted = rng.integers(8, 13, size=rows)
    order = rng.permuted(np.tile(np.arange(16), (rows, 1)), axis=1)
    conflicts = differs[solution].sum(axis=2)  # (row, grid): clues that a grid contradicts; 0 for a solution
    blank = np.zeros((rows, 16), dtype=bool)
    everyone = np.arange(rows)
    for cell in order.T:
        without = conflicts - differs[solution, :, cell]
        still_unique = (without == 0).sum(axis=1) == 1
        remove = still_unique & (blank.sum(axis=1) < blanks_wanted)
        conflicts = np.where(remove[:, None], without, conflicts)
        blank[everyone, cell] |= remove
    return [_grid_example("sudoku4", 4, grids[s], b) for s, b in zip(solution, blank, strict=True)]


def sudoku6(rng: np.random.Generator, rows: int, held_out: bool = False) -> list[Example]:
    """6x6 grids with boxes of 2x3, 12 to 22 blanks and one solution.

    Every example is one of the puzzles of `_dug_grids6` with some blanks filled in again, seen through a random
    symmetry of the grid: neither can add a solution.
    """
    solutions, dug = _dug_grids6(held_out)
    base = rng.integers(len(solutions), size=rows)
    blanks_wanted = rng.integers(12, 23, size=rows)
    cells = _symmetric_cells6(rng, rows)
    digits = rng.permuted(np.tile(np.arange(1, 7), (rows, 1)), axis=1)
    made = []
    for index, wanted, order, relabel in zip(base, blanks_wanted, cells, digits, strict=True):
        holes = rng.permutation(np.flatnonzero(dug[index]))[:wanted]
        blank = np.zeros(36, dtype=bool)
        blank[holes] = True
        made.append(_grid_example("sudoku6", 6, relabel[solutions[index][order] - 1], blank[order]))
    return made


def _grid_example(name: str, size: int, solution: np.ndarray, blank: np.ndarray) -> Example:
    clues = "".join("_" if hole else str(digit) for digit, hole in zip(solution, blank, strict=True))
    return f"{name}\n{_lines(clues, size)}", _lines("".join(map(str, solution)), size)


def _lines(cells: str, size: int) -> str:
    return "\n".join(cells[start : start + size] for start in range(0, len(cells), size))


@lru_cache(maxsize=1)
def _all_grids4() -> np.ndarray:
    """(288, 16): every finished 4x4 grid."""
    return np.array(sorted(_finished_grids(4)))


def _finished_grids(size: int) -> Iterator[list[int]]:
    yield from _solutions([0] * size**2, size)


@lru_cache(maxsize=2)
def _dug_grids6(held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    """Solutions (grid, 36) and the cells (grid, 36) bool that can all be blank with the solution still unique.

    Training and evaluation dig different grids.
    """
    rng = np.random.default_rng([6, int(held_out)])
    solutions, dug = [], []
    for _ in range(300 if held_out else 2000):
        clues = next(_solutions([0] * 36, 6, rng))
        solutions.append(list(clues))
        holes = 0
        for cell in rng.permutation(36):
            digit, clues[cell] = clues[cell], 0
            if _has_one_solution(clues, 6):
                holes += 1
            else:
                clues[cell] = digit
            if holes == 22:
                break
        dug.append([digit == 0 for digit in clues])
    return np.array(solutions), np.array(dug)


def _symmetric_cells6(rng: np.random.Generator, rows: int) -> np.ndarray:
    """(rows, 36): for each example an order of the cells that turns valid grids into valid grids.

    Rows move inside their band and bands move whole; likewise columns inside their stack, and stacks.
    """
    lines = rng.permuted(np.tile(np.arange(3), (rows, 1)), axis=1)[:, :, None] * 2
    lines = (lines + rng.permuted(np.tile(np.arange(2), (rows, 3, 1)), axis=2)).reshape(rows, 6)
    columns = rng.permuted(np.tile(np.arange(2), (rows, 1)), axis=1)[:, :, None] * 3
    columns = (columns + rng.permuted(np.tile(np.arange(3), (rows, 2, 1)), axis=2)).reshape(rows, 6)
    return (lines[:, :, None] * 6 + columns[:, None, :]).reshape(rows, 36)


def _has_one_solution(clues: list[int], size: int) -> bool:
    found = _solutions(clues, size)
    return next(found, None) is not None and next(found, None) is None


def _solutions(clues: list[int], size: int, rng: np.random.Generator | None = None) -> Iterator[list[int]]:
    """Every completion of a grid; in random order if a generator is given. A blank is 0."""
    units = _units(size)
    free = [(1 << size) - 1] * (3 * size)  # digits a row, a column, a box still lacks, as bits
    blanks = []
    for cell, digit in enumerate(clues):
        if digit:
            for unit in units[cell]:
                if not free[unit] >> (digit - 1) & 1:
                    return
                free[unit] &= ~(1 << (digit - 1))
        else:
            blanks.append(cell)
    yield from _fill(list(clues), blanks, free, units, rng)


def _fill(
    grid: list[int],
    blanks: list[int],
    free: list[int],
    units: list[tuple[int, int, int]],
    rng: np.random.Generator | None,
) -> Iterator[list[int]]:
    if not blanks:
        yield list(grid)
        return
    tightest, fewest, options = 0, 99, 0
    for place, cell in enumerate(blanks):
        row, column, box = units[cell]
        possible = free[row] & free[column] & free[box]
        count = possible.bit_count()
        if count < fewest:
            tightest, fewest, options = place, count, possible
            if count <= 1:
                break
    if not options:
        return
    cell = blanks[tightest]
    rest = blanks[:tightest] + blanks[tightest + 1 :]
    digits = [digit for digit in range(1, 33) if options >> (digit - 1) & 1]
    if rng is not None:
        rng.shuffle(digits)
    for digit in digits:
        bit = 1 << (digit - 1)
        for unit in units[cell]:
            free[unit] ^= bit
        grid[cell] = digit
        yield from _fill(grid, rest, free, units, rng)
        grid[cell] = 0
        for unit in units[cell]:
            free[unit] ^= bit


@lru_cache(maxsize=2)
def _units(size: int) -> list[tuple[int, int, int]]:
    """For each cell the index of its row, column and box among the grid's 3 x size units."""
    tall, wide = BOXES[size]
    across = size // wide
    return [
        (row, size + column, 2 * size + row // tall * across + column // wide)
        for row, column in product(range(size), repeat=2)
    ]


# ---- lists


def addition(rng: np.random.Generator, rows: int, held_out: bool = False) -> list[Example]:
    """Column addition from the units up, 3 to 16 columns named a, b, c...: digits, carry in, and what they come to.

    `add a38 b17` -> `a3+8+0=11 b1+7+1=09`
    """
    made = []
    for columns in rng.integers(3, 17, size=rows):
        digits = rng.integers(10, size=(columns, 2)).tolist()
        steps, carry = [], 0
        for letter, (above, below) in zip(LETTERS, digits, strict=False):
            total = above + below + carry
            steps.append(f"{letter}{above}+{below}+{carry}={total:02d}")
            carry = total // 10
        problem = " ".join(f"{letter}{above}{below}" for letter, (above, below) in zip(LETTERS, digits, strict=False))
        made.append((f"add {problem}", " ".join(steps)))
    return made


def sorting(rng: np.random.Generator, rows: int, held_out: bool = False) -> list[Example]:
    """3 to 24 records of a letter and two digits, put in the order of their letters.

    `sort k73 b21 z90` -> `b21 k73 z90`
    """
    made = []
    for count in rng.integers(3, 25, size=rows):
        letters, numbers = rng.permutation(26)[:count], rng.integers(100, size=count)
        records = [f"{LETTERS[letter]}{number:02d}" for letter, number in zip(letters, numbers, strict=True)]
        made.append((f"sort {' '.join(records)}", " ".join(sorted(records))))
    return made


TASKS: dict[str, Callable[[np.random.Generator, int, bool], list[Example]]] = {
    "sudoku4": sudoku4,
    "sudoku6": sudoku6,
    "add": addition,
    "sort": sorting,
}
TASK_NAMES = tuple(TASKS)
