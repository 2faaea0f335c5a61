"""Where a completion ends that holds a stop string: after the first token that completes one."""

from __future__ import annotations

from dgbatch.engine.sequence import Sequence
from dgbatch.engine.tokenizer import Tokenizer


def cut_at_stop(sequence: Sequence, tokenizer: Tokenizer) -> None:
    """End the sequence there, where its text holds one; text is searched, since a string may begin in any token."""

    def holds_one(tokens: int) -> bool:
        text = tokenizer.parse(sequence.answer_ids[:tokens]).text
        return any(stop in text for stop in sequence.settings.stop)

    if not sequence.settings.stop or not holds_one(len(sequence.answer_ids)):
        return
    low, high = 1, len(sequence.answer_ids)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds_one(middle) else (middle + 1, high)
    sequence.stop_at(low)
