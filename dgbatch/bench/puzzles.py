"""The prompts of a benchmark, with the answers a machine can check."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

from dgbatch.records import Generation, Prompt

SEED = 14
MOST_CANVASES = 4


@dataclass(frozen=True, slots=True)
class Puzzle:
    prompt: str
    answer: str


def mixed(rows: int) -> list[Puzzle]:
    """The packaged prompts' first rows: two sudokus, sorting and addition, as the demo job mixes them."""
    import pyarrow.parquet as pq

    from dgbatch.demo.prompts import PROMPTS_PATH

    table = pq.read_table(PROMPTS_PATH, columns=["prompt", "answer"]).slice(0, rows).to_pylist()
    return [Puzzle(**row) for row in table]


def of_mixed_lengths(rows: int, canvases: Callable[[str], int]) -> list[Puzzle]:
    """Additions whose answers take 1 to 4 canvases, equally many of each, shuffled.

    canvases: how many an answer takes; where the tokenizer makes all answers alike, so is what comes back
    """
    from dgbatch.demo.tasks import stream

    wanted = -(-rows // MOST_CANVASES)
    by_length: dict[int, list[Puzzle]] = {number: [] for number in range(1, MOST_CANVASES + 1)}
    spare: list[Puzzle] = []
    for prompt, answer in islice(stream("add", SEED, held_out=True), 40 * rows):
        own = by_length.get(canvases(answer), spare)
        (own if len(own) < wanted else spare).append(Puzzle(prompt, answer))
    in_turn = [one for same in zip_longest(*by_length.values()) for one in same if one is not None]
    chosen = [*in_turn, *spare][:rows]
    random.Random(SEED).shuffle(chosen)
    return chosen


def prompts(puzzles: Sequence[Puzzle], max_new_tokens: int | None = None) -> list[Prompt]:
    """For our engine; ids are their places in the list."""
    own = Generation(max_new_tokens=max_new_tokens)
    return [
        Prompt(str(index), 0, messages(puzzle), noise_key=index, generation=own) for index, puzzle in enumerate(puzzles)
    ]


def messages(puzzle: Puzzle) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": puzzle.prompt},)
