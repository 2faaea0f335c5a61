"""How completions are sampled: the job's section, and what each row may say over it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field, ValidationError

from dgbatch.errors import InputError, RowError
from dgbatch.records import Generation
from dgbatch.runner.block import Block, Text
from dgbatch.runner.complaints import kind_of, no_column, sentences, shown
from dgbatch.runner.source import is_text_type

KEY = "generation.overrides"


class GenerationSpec(Block):
    """How completions are sampled. What is left out is as the checkpoint's generation_config says.

    The bounds hold for a row's own settings too. Those above keep every number within what the engine computes with.
    """

    max_new_tokens: int | None = Field(
        default=None, ge=1, lt=2**31, description="Most tokens per completion, thinking included."
    )
    samples: int = Field(default=1, ge=1, le=10_000, description="Completions per row.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Another seed gives other completions.")
    max_denoising_steps: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Most denoising steps per canvas."
    )
    entropy_bound: float | None = Field(
        default=None, ge=0, le=1e6, description="Nats of entropy accepted in one denoising step."
    )
    temperature_start: float | None = Field(
        default=None, ge=1e-6, le=1e6, description="Temperature of a canvas's first step."
    )
    temperature_end: float | None = Field(
        default=None, ge=1e-6, le=1e6, description="Temperature of a canvas's last step."
    )
    confidence: float | None = Field(
        default=None, ge=0, description="A canvas settles below this mean entropy, in nats."
    )
    stability: int | None = Field(
        default=None, ge=0, description="Steps the text must stand still before a canvas settles."
    )
    stop: tuple[Text, ...] = Field(default=(), strict=False, description="Texts that end a completion.")
    greedy: bool = Field(default=False, description="Accept the likeliest token in place of one drawn at random.")
    suppress_tokens: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(), strict=False, description="Token ids that are never written."
    )
    overrides: Text | None = Field(
        default=None,
        description="Column with a row's own settings: a struct, or text with a JSON object, of any of these keys but "
        "samples. They replace the job's; null, in it or of it, says nothing.",
    )

    def to_record(self) -> Generation:
        """What the engine gets with each prompt."""
        return Generation(**{name: getattr(self, name) for name in Generation.__dataclass_fields__})


ROW_SETTINGS = tuple(name for name in GenerationSpec.model_fields if name not in ("samples", "overrides"))


def check_overrides(column: str, kind: pa.DataType) -> None:
    """Raises InputError for a column that cannot hold settings, or holds a field that is none."""
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        for name in names:
            if name not in ROW_SETTINGS:
                raise InputError(f"{KEY}: column {column!r} has the field {name!r}. {_no_setting(name)}")
            if names.count(name) > 1:
                raise InputError(f"{KEY}: column {column!r} has the field {name!r} twice. Remove one.")
    elif not (is_text_type(kind) or pa.types.is_null(kind)):
        raise InputError(
            f"{KEY}: column {column!r} is {kind}; settings are a struct, or text that holds a JSON object such as "
            '{"max_new_tokens": 64}. Choose another column.'
        )


class RowSettings:
    """Every row's settings: the job's, with what the row's own column says put over them."""

    def __init__(self, spec: GenerationSpec, columns: Sequence[str]):
        if spec.overrides is not None and spec.overrides not in columns:
            raise InputError(no_column(KEY, spec.overrides, columns))
        self.column = spec.overrides
        self._job, self._record = spec, spec.to_record()
        self._values = {name: getattr(spec, name) for name in GenerationSpec.model_fields}

    def of(self, row: Mapping[str, Any]) -> GenerationSpec:
        """What holds for this row. Raises RowError."""
        if self.column is None:
            return self._job
        said = self.said(row)
        if not said:
            return self._job
        try:
            return GenerationSpec.model_validate({**self._values, **said})
        except ValidationError as error:
            wrong = sentences(error.errors(include_url=False), GenerationSpec)
            raise _bad(f"column {self.column!r}: {' '.join(wrong)}") from error

    def record(self, settings: GenerationSpec) -> Generation:
        """What the engine gets for what `of` found: one object for all rows that say nothing themselves."""
        return self._record if settings is self._job else settings.to_record()

    def said(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What this row says itself, by name; nothing of it is known to be in bounds. Raises RowError."""
        if self.column is None:
            return {}
        value = row[self.column]
        if isinstance(value, str):  # a CSV has no nulls: its cell is blank
            value = self._parsed(value) if value.strip() else None
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise _bad(f"column {self.column!r} holds {kind_of(value)}, not an object with settings")
        for name in value:
            if name not in ROW_SETTINGS:
                raise _bad(f"column {self.column!r}: {shown(name)}: {_no_setting(name)}")
        return {name: setting for name, setting in value.items() if setting is not None}

    def _parsed(self, text: str) -> Any:
        try:
            return json.loads(text, object_pairs_hook=_each_once)
        except (ValueError, RecursionError) as error:  # deeper than Python goes, or a number longer than it reads
            raise _bad(f"column {self.column!r} is not JSON: {error}") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _bad(message: str) -> RowError:
    return RowError("bad_generation", message)


def _no_setting(name: str) -> str:
    """Why this is no setting of a row: the nearest one that is, or all of them."""
    if name == "samples":
        return "A row has as many samples as the job says: set generation.samples."
    if close := difflib.get_close_matches(name, ROW_SETTINGS, 1, 0.6):
        return f"No such setting. Did you mean {close[0]}?"
    return f"No such setting. A row can set: {', '.join(ROW_SETTINGS)}."
