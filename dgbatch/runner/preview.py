"""A few prompts as the model will read them, with their token counts. Knows the tokenizer, not the model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from dgbatch.errors import CheckpointError, RowError
from dgbatch.records import Prompt
from dgbatch.runner import source
from dgbatch.runner.prompts import Renderer

if TYPE_CHECKING:
    from dgbatch.engine.tokenizer import Tokenizer
    from dgbatch.runner.plan import Plan
    from dgbatch.runner.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Rendered:
    """One row's prompt. `error` is set where the row would go to quarantine."""

    id: str
    text: str  # with the checkpoint's chat template where that is at hand, else the messages alone
    tokens: int | None  # None without a tokenizer, and for a row with an error
    error: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)  # settings of this row's own, over the job's


def preview(spec: JobSpec, plan: Plan, count: int = 3) -> list[Rendered]:
    """The first prompts of the plan. A bad row shows its error; a wrong checkpoint folder raises CheckpointError.

    A hub id is not downloaded for this: its prompts are counted only when the local cache has it.
    """
    renderer = Renderer(spec, plan.schema.names)
    tokenizer = _tokenizer(spec)
    return [_rendered(renderer, tokenizer, row_id, row) for row_id, row in islice(_rows(spec, plan, renderer), count)]


def _rows(spec: JobSpec, plan: Plan, renderer: Renderer) -> Iterator[tuple[str, dict[str, Any]]]:
    for shard in plan.shards:
        yield from source.rows(shard, spec.input, renderer.columns)


def _rendered(renderer: Renderer, tokenizer: Tokenizer | None, row_id: str, row: dict[str, Any]) -> Rendered:
    try:
        prompt, own = renderer.render(row_id, row, 0), renderer.settings.said(row)
        if tokenizer is None:
            return Rendered(row_id, _plain(prompt), None, generation=own)
        text = tokenizer.render(prompt.messages, prompt.thinking)
        return Rendered(row_id, text, len(tokenizer.encode(text)), generation=own)
    except RowError as error:
        return Rendered(row_id, "", None, f"{error.code}: {error.message}")


def _plain(prompt: Prompt) -> str:
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt.messages)


def _tokenizer(spec: JobSpec) -> Tokenizer | None:
    """The checkpoint's tokenizer; None for a hub id that is not here, or without the engine's packages."""
    try:
        from dgbatch.engine.checkpoint import resolve
        from dgbatch.engine.tokenizer import Tokenizer
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("dgbatch"):
            raise
        return None
    name = spec.model.checkpoint
    is_folder = name == "demo" or name.startswith((".", "/", "~")) or os.path.isdir(name) or name.count("/") != 1
    try:
        return Tokenizer.load(resolve(name, spec.model.revision, local_only=True))
    except CheckpointError:
        if is_folder:
            raise
        return None
