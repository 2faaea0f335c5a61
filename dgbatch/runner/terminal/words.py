"""Which words of two texts differ."""

from __future__ import annotations

import difflib
import re
from typing import Literal

WORD = re.compile(r"\w+|\s+|[^\w\s]")
MOST_WORDS = 1_000  # of each text; behind them texts are compared no more
FEW_WORDS = 300  # so few may begin to be alike at a space; of more, that took a minute
Side = Literal["same", "a", "b"]
Part = tuple[Side, str]


def word_difference(a: str, b: str) -> list[Part]:
    """Both texts in parts: what they share, and what only one of them has. Joined, a and same are the one text, b and
    same the other one.
    """
    words_a, rest_a = _words(a)
    words_b, rest_b = _words(b)
    parts: list[Part] = []
    skipped = str.isspace if max(len(words_a), len(words_b)) > FEW_WORDS else None
    for what, i, j, k, n in difflib.SequenceMatcher(skipped, words_a, words_b, autojunk=False).get_opcodes():
        if what == "equal":
            parts.append(("same", "".join(words_a[i:j])))
            continue
        parts += [("a", "".join(words_a[i:j]))] * (j > i)
        parts += [("b", "".join(words_b[k:n]))] * (n > k)
    if rest_a == rest_b:
        return [*parts, *([("same", rest_a)] if rest_a else [])]  # type: ignore[list-item]
    return [*parts, *([("a", rest_a)] if rest_a else []), *([("b", rest_b)] if rest_b else [])]  # type: ignore[list-item]


def around(parts: list[Part], most: int) -> list[Part]:
    """The parts with what they share cut to a little before and behind each difference, and the whole to so many
    characters.
    """
    near, left, found = max(12, most // 8), most, list[Part]()
    for index, (side, text) in enumerate(parts):
        if side == "same" and len(text) > 2 * near + 5:
            head = text[:near] if index else ""
            tail = text[-near:] if index + 1 < len(parts) else ""
            text = f"{head} ... {tail}"
        if len(text) > left:
            return [*found, (side, f"{text[: max(0, left)]} ...")]
        found.append((side, text))
        left -= len(text)
    return found


def _words(text: str) -> tuple[list[str], str]:
    words = WORD.findall(text[: 20 * MOST_WORDS])[:MOST_WORDS]
    return words, text[sum(map(len, words)) :]
