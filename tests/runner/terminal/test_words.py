from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dgbatch.runner.terminal import words
from dgbatch.runner.terminal.words import around, word_difference

TEXTS = st.text("ab .\n", max_size=40)


@given(TEXTS, TEXTS)
def test_the_parts_of_one_side_are_its_text(a: str, b: str):
    parts = word_difference(a, b)
    assert "".join(text for side, text in parts if side in ("same", "a")) == a
    assert "".join(text for side, text in parts if side in ("same", "b")) == b
    assert all(text for _, text in parts)
    if a == b:
        assert {side for side, _ in parts} <= {"same"}


def test_words_differ_whole_and_not_by_letters():
    assert word_difference("The answer is 42.", "The answer is 43!") == [
        ("same", "The answer is "), ("a", "42."), ("b", "43!"),
    ]  # fmt: skip


def test_behind_many_words_texts_are_compared_as_one(monkeypatch):
    monkeypatch.setattr(words, "MOST_WORDS", 4)
    assert word_difference("a b c d", "a b X d") == [("same", "a b "), ("a", "c d"), ("b", "X d")]
    assert word_difference("a b c", "X b c") == [("a", "a"), ("b", "X"), ("same", " b "), ("same", "c")]


def test_what_both_share_is_cut_to_what_is_around_a_difference():
    parts = [("same", "x" * 100), ("a", "old"), ("b", "new"), ("same", "y" * 100)]
    assert around(parts, 96) == [("same", " ... " + "x" * 12), ("a", "old"), ("b", "new"), ("same", "y" * 12 + " ... ")]
    assert around([("a", "z" * 200)], 96) == [("a", "z" * 96 + " ...")]
    assert around([("same", "short"), ("a", "old")], 96) == [("same", "short"), ("a", "old")]


def test_long_texts_that_share_no_word_are_not_searched_space_by_space():
    """Of 1,500 words that takes more than a minute."""
    a, b = (" ".join(f"{letter}{n}" for n in range(1_500)) for letter in "ab")
    parts = word_difference(a, b)
    assert [side for side, _ in parts] == ["a", "b", "a", "b"]
    assert "".join(text for side, text in parts if side == "a") == a
    apart = word_difference(f"{a} yes.", f"{a} no.")
    assert ("same", a[:100]) == (apart[0][0], apart[0][1][:100])
