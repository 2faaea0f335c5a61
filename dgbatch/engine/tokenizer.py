"""Text to token ids and back: the chat template, thinking, and where a turn ends. Knows no torch."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as TokenizersTokenizer

from dgbatch.engine.checkpoint import read_json
from dgbatch.errors import CheckpointError, RowError
from dgbatch.records import Message

CHANNEL_START, CHANNEL_END = "<|channel>", "<channel|>"
# Of one prompt: no context holds more, and encoding takes 200 bytes of memory for each. A whole file in one cell, as an
# unclosed quote in a CSV makes it, would cost its worker instead of its row.
MOST_CHARACTERS = 8 << 20
THOUGHT = "thought\n"  # the channel's name and its line break, inside the channel before the thinking itself


@dataclass(frozen=True, slots=True)
class Parsed:
    """A generated turn in parts."""

    text: str
    thinking: str | None  # None when the turn has no thought channel
    thinking_tokens: int = 0  # of the channel, with what opens and closes it


class Tokenizer:
    """The checkpoint's own tokenizer.json and chat template."""

    def __init__(self, tokenizer: TokenizersTokenizer, template: jinja2.Template, special: dict[str, str]):
        self._tokenizer = tokenizer
        self._template = template
        self._special = special
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        self._channel_start = tokenizer.token_to_id(CHANNEL_START)
        self._channel_end = tokenizer.token_to_id(CHANNEL_END)

    @classmethod
    def load(cls, folder: Path | str) -> Tokenizer:
        """Raises CheckpointError naming the file that is missing or does not parse."""
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{folder}: no tokenizer.json. Download the checkpoint again.")
        try:
            tokenizer = TokenizersTokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers library raises plain Exception
            raise CheckpointError(f"{path}: not a readable tokenizer: {error}. Download it again.") from error
        config = read_json(folder, "tokenizer_config.json", required=False)
        special = {name: _content(value) for name, value in config.items() if name.endswith("_token") and value}
        return cls(tokenizer, _template(folder, config), special)

    @property
    def vocab_size(self) -> int:
        """Ids that `encode` may give, special tokens included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def never_emitted(self, end_ids: Collection[int]) -> list[int]:
        """Special tokens that are no text: all but those that end a turn or enclose its thinking."""
        kept = {*end_ids, self._channel_start, self._channel_end}
        return [id for id in sorted(self.special_ids) if id not in kept]

    def render(self, messages: Sequence[Message], thinking: bool) -> str:
        """The prompt's text, up to where the model begins to write. Raises RowError when the template refuses."""
        try:
            return self._template.render(
                messages=list(messages),
                add_generation_prompt=True,
                enable_thinking=thinking,
                tools=None,  # templates written for transformers test these two against none
                documents=None,
                **self._special,
            )
        except Exception as error:
            raise RowError("template_error", f"the chat template refused the messages: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that already holds its special tokens.

        Raises RowError for a text beyond any context, and for half a surrogate pair.
        """
        if len(text) > MOST_CHARACTERS:
            raise RowError(
                "prompt_too_long",
                f"the prompt has {len(text):,} characters, more than the {MOST_CHARACTERS:,} of any context",
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RowError("bad_text", f"the prompt is not text that UTF-8 can hold: {error}") from error
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_chat(self, messages: Sequence[Message], thinking: bool = False) -> list[int]:
        """The ids the model continues. Raises RowError as `render` does."""
        return self.encode(self.render(messages, thinking))

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def piece(self, id: int) -> str:
        """The text of one token, special or not; a byte of a longer character, and an id of no token, by its name."""
        text = self._tokenizer.decode([id], skip_special_tokens=False)
        return text if text and "\ufffd" not in text else self._tokenizer.id_to_token(id) or f"<{id}>"

    def parse(self, ids: Sequence[int]) -> Parsed:
        """Split a generated turn into its thought channel and its answer.

        What follows a channel that never closes is all thinking: no answer comes after it.
        """
        ids = list(ids)
        if self._channel_start is None or self._channel_start not in ids:
            return Parsed(self.decode(ids), None)
        start = ids.index(self._channel_start)
        after = ids[start + 1 :]
        end = after.index(self._channel_end) if self._channel_end in after else len(after)
        thinking = self.decode(after[:end]).removeprefix(THOUGHT)
        text = self.decode(ids[:start]) + self.decode(after[end + 1 :])
        return Parsed(text, thinking.strip("\n"), 1 + len(after[: end + 1]))


def _content(value: Any) -> str:
    """tokenizer_config.json writes a special token as text or as a record with its text in `content`."""
    return value["content"] if isinstance(value, dict) else str(value)


def _template(folder: Path, config: dict[str, Any]) -> jinja2.Template:
    path = folder / "chat_template.jinja"
    try:
        source = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not readable as text: {error}. Download it again.") from error
    if not isinstance(source, str):
        raise CheckpointError(f"{folder}: no chat_template.jinja, and none in tokenizer_config.json.")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)  # Jinja's own escapes < and > for HTML
    environment.globals["raise_exception"] = _refuse
    # No strftime_now: a prompt that knows the date would give other tokens tomorrow.
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise CheckpointError(f"{folder}: the chat template does not parse, line {error.lineno}: {error}.") from error


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
