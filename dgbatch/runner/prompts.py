"""Rows -> Prompts: templates, messages, and the noise key of each sample."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2 import meta, nodes

from dgbatch.errors import InputError, JobError, RowError
from dgbatch.records import Message, Prompt
from dgbatch.runner.complaints import no_column
from dgbatch.runner.generation import RowSettings
from dgbatch.runner.sandbox import BoundedEnvironment

if TYPE_CHECKING:
    from dgbatch.runner.spec import JobSpec

ROLES = ("system", "user", "assistant")
ROW = "row"  # in a template: the whole row, for columns whose names are no identifiers, as in {{ row["my column"] }}
# What a template of the user's may raise on a row: all of it costs that row only.
FAILURES = (
    jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError,
    TypeError, ValueError,
)  # fmt: skip
_EMPTY = hashlib.blake2b(digest_size=8, person=b"dgbatch")


def noise_key(seed: int, row_id: str, sample: int) -> int:
    """Unsigned 64 bits that decide all random numbers of one sample: of the seed, the row's id and the sample's number.

    The first 8 bytes, little-endian, of BLAKE2b with person "dgbatch" over "<seed>/<sample>/<row id>" in UTF-8.
    """
    digest = _EMPTY.copy()  # quicker than a new one
    digest.update(f"{seed}/{sample}/{row_id}".encode())
    return int.from_bytes(digest.digest(), "little")


class _Null(Exception):
    """A template printed a null."""


def _printable(value: Any) -> Any:
    if value is None:
        raise _Null
    if isinstance(value, (bytes, bytearray)):
        raise TypeError("the value is binary, not text")
    return value


class _Template:
    """One Jinja text of the job and the columns it reads."""

    def __init__(self, key: str, text: str, columns: Sequence[str]):
        environment = self._environment = BoundedEnvironment(_printable, trim_blocks=True, lstrip_blocks=True)
        try:
            tree = environment.parse(text)
            self._template = environment.from_string(text)
            self._template.globals = dict(self._template.globals)  # Jinja's chain of them is slow to copy, row by row
        except jinja2.TemplateSyntaxError as error:
            raise JobError(f"{key}: line {error.lineno} of the template: {error.message}") from error
        except (SyntaxError, RecursionError, MemoryError, ValueError, OverflowError) as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise JobError(f"{key}: the template is too deep or too large: {said}. Write it flatter.") from error
        if next(tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)), None) is not None:
            raise JobError(f"{key}: include, import and extends need other files. Write the text into the template.")
        self.columns = self._columns(key, tree, columns, environment)

    @staticmethod
    def _columns(key: str, tree: nodes.Template, columns: Sequence[str], environment: jinja2.Environment) -> set[str]:
        names = meta.find_undeclared_variables(tree)
        wanted = names & set(columns)
        for name in sorted(names - wanted):
            if name == ROW:
                wanted |= _row_columns(tree, columns)
            elif name not in environment.globals:
                raise InputError(no_column(key, name, columns))
        if unknown := sorted(wanted - set(columns)):
            raise InputError(no_column(key, unknown[0], columns))
        return wanted

    def render(self, row: Mapping[str, Any]) -> str:
        """Raises RowError: null_prompt for a null that would be printed, bad_text for bytes that are no text,
        template_error for any other failure.
        """
        self._environment.begin()
        try:
            context = self._template.new_context({**self._template.globals, ROW: row, **row}, shared=True)
            return self._environment.concat(self._template.root_render_func(context))
        except _Null:
            nulls = sorted(name for name in self.columns if row.get(name) is None)
            named = ", ".join(nulls) if nulls else "a value inside a column"
            raise RowError("null_prompt", f"the template prints a null: {named}") from None
        except UnicodeDecodeError as error:
            raise RowError("bad_text", f"a value is not UTF-8 text: {error}") from error
        except FAILURES as error:
            raise RowError("template_error", f"the template failed: {error or type(error).__name__}") from error


def _row_columns(tree: nodes.Template, columns: Sequence[str]) -> set[str]:
    """Columns read as row["name"] or row.name; all of them when the row is used in another way."""
    found: set[str] = set()
    read = 0
    for node in tree.find_all((nodes.Getitem, nodes.Getattr)):
        if not (isinstance(node.node, nodes.Name) and node.node.name == ROW):  # type: ignore[attr-defined]
            continue
        if isinstance(node, nodes.Getattr):
            found.add(node.attr)
            read += 1
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            found.add(node.arg.value)
            read += 1
    uses = sum(name.name == ROW for name in tree.find_all(nodes.Name))
    return found if read == uses else set(columns)


class Renderer:
    """Makes the job's prompts. A template that cannot work on these columns raises JobError or InputError at once."""

    def __init__(self, spec: JobSpec, columns: Sequence[str]):
        self._prompt = spec.prompt
        self.settings = RowSettings(spec.generation, columns)
        template, system, messages = spec.prompt.template, spec.prompt.system, spec.prompt.messages
        self._template = _Template("prompt.template", template, columns) if template is not None else None
        self._system = _Template("prompt.system", system, columns) if system is not None else None
        if messages is not None and messages not in columns:
            raise InputError(no_column("prompt.messages", messages, columns))
        wanted = {messages} if messages is not None else set()
        for text in (self._template, self._system):
            wanted |= text.columns if text else set()
        if self.settings.column is not None:
            wanted.add(self.settings.column)
        self.columns = [name for name in columns if name in wanted]  # what `render` needs of a row

    def render(self, row_id: str, row: Mapping[str, Any], sample: int) -> Prompt:
        """One sample of a row. Raises RowError with one of the codes in docs/quarantine.md."""
        needed = {name: row[name] for name in self.columns}
        messages = self._turns(needed)
        if self._system is not None and messages[0]["role"] != "system":
            system = self._system.render(needed)
            messages = [*([{"role": "system", "content": system}] if system.strip() else []), *messages]
        settings = self.settings.of(needed)
        return Prompt(
            id=row_id,
            sample=sample,
            messages=tuple(messages),
            noise_key=noise_key(settings.seed, row_id, sample),
            thinking=self._prompt.thinking,
            generation=self.settings.record(settings),
        )

    def _turns(self, row: Mapping[str, Any]) -> list[Message]:
        if self._template is not None:
            text = self._template.render(row)
            if not text.strip():
                raise RowError("empty_prompt", "the prompt is empty after filling in the template")
            return [{"role": "user", "content": text}]
        assert self._prompt.messages is not None
        return _checked(row[self._prompt.messages], self._prompt.messages)


def _checked(value: Any, column: str) -> list[Message]:
    """A row's own messages, or RowError."""
    if value is None:
        raise RowError("null_prompt", f"column {column!r} is null")
    if not isinstance(value, list):
        raise RowError("bad_messages", f"column {column!r} holds {type(value).__name__}, not a list of messages")
    if not value:
        raise RowError("empty_prompt", f"column {column!r} holds no messages")
    for number, message in enumerate(value, 1):
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            role = message.get("role") if isinstance(message, Mapping) else message
            raise RowError("bad_messages", f"message {number} has the role {role!r}; it is one of {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str):
            raise RowError("bad_messages", f"message {number} has no text in content")
        if message["role"] == "system" and number > 1:
            raise RowError("bad_messages", f"message {number} is a system message; only the first can be")
    if value[-1]["role"] != "user":
        raise RowError("bad_messages", f"the last message is of the {value[-1]['role']}; it must be the user's")
    if not value[-1]["content"].strip():
        raise RowError("empty_prompt", "the last message is empty")
    return [{"role": message["role"], "content": message["content"]} for message in value]
