from __future__ import annotations

from collections import Counter

from dgbatch.bench.puzzles import mixed, of_mixed_lengths, prompts


def canvases(answer: str) -> int:
    return -(-(len(answer) + 1) // 48)


def test_mixed_puzzles_are_the_packaged_prompts():
    chosen = mixed(40)
    assert len(chosen) == 40 == len({one.prompt for one in chosen})
    assert {one.prompt.split()[0] for one in chosen} == {"sudoku4", "sudoku6", "add", "sort"}


def test_lengths_of_one_to_four_canvases_are_equally_many():
    chosen = of_mixed_lengths(16, canvases)
    assert Counter(canvases(one.answer) for one in chosen) == {1: 4, 2: 4, 3: 4, 4: 4}
    assert chosen == of_mixed_lengths(16, canvases)
    assert [canvases(one.answer) for one in chosen[:4]] != [1, 2, 3, 4]


def test_where_all_answers_are_alike_there_are_as_many():
    assert len(of_mixed_lengths(6, lambda answer: 1)) == 6
    assert len(of_mixed_lengths(5, lambda answer: 7)) == 5


def test_prompts_are_named_by_their_place():
    made = prompts(mixed(3), 48)
    assert [one.id for one in made] == ["0", "1", "2"]
    assert made[0].generation.max_new_tokens == 48
    assert len({one.noise_key for one in made}) == 3
