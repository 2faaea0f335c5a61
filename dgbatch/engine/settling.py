"""What a canvas that settled comes to: tokens emitted, the end of its sequence perhaps, and what is counted of it."""

from __future__ import annotations

from dgbatch.engine.sequence import Sequence
from dgbatch.engine.stop_strings import cut_at_stop
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.records import EngineStats


def settle(sequence: Sequence, ids: list[int], first: list[int], tokenizer: Tokenizer, stats: EngineStats) -> None:
    """Emit a canvas. ids: its argmax; first: the tokens that its positions were first sure of, -1 where never."""
    before = len(sequence.token_ids)
    stats.denoise_steps += sequence.step
    stats.canvases += 1
    sequence.emit(ids)
    cut_at_stop(sequence, tokenizer)
    emitted = len(sequence.token_ids) - before
    sequence.revised_tokens += sum(was not in (-1, now) for was, now in zip(first, ids[:emitted], strict=False))
    stats.cut_tokens += len(ids) - emitted
