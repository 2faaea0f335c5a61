"""A sequence that is done, as what the runner is told."""

from __future__ import annotations

from dgbatch.engine.film import film_of
from dgbatch.engine.sequence import Sequence
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.records import Completion


def completion_of(sequence: Sequence, tokenizer: Tokenizer) -> Completion:
    """Its text, cut at its stop string, and what it took to write it."""
    parsed = tokenizer.parse(sequence.answer_ids)
    text = parsed.text
    if sequence.finish == "stop":
        text = text[: min(text.find(stop) for stop in sequence.settings.stop if stop in text)]
    assert sequence.finish is not None
    return Completion(
        id=sequence.prompt.id,
        sample=sequence.prompt.sample,
        text=text,
        thinking=parsed.thinking,
        finish_reason=sequence.finish,
        token_ids=tuple(sequence.token_ids),
        prompt_tokens=len(sequence.prompt_ids),
        canvases=sequence.canvas,
        denoise_steps=sequence.denoise_steps,
        noise_key=sequence.prompt.noise_key,
        revised_tokens=sequence.revised_tokens,
        thinking_tokens=parsed.thinking_tokens,
        canvas_steps=tuple(sequence.canvas_steps),
        mean_entropy=sequence.entropy_sum / sequence.canvas,
        queue_s=sequence.started_at - sequence.began_at,
        prefill_s=sequence.denoised_at - sequence.started_at,
        denoise_s=sequence.ended_at - sequence.denoised_at,
        film=film_of(sequence, tokenizer),
    )
