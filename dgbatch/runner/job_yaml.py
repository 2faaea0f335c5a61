"""YAML as job files use it: no value guessed, no key lost, no small file that unfolds into a huge one.

PyYAML keeps the last of two equal keys in silence, reads `no` as false, `3:10` as 190 and `1e-3` as text. This reader
refuses repeated keys and takes only what YAML 1.2 takes: true and false, decimal numbers, null; all else is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar

import yaml

MAX_BYTES = 1 << 20  # a job file is a page; a megabyte of it is a data file by mistake
MAX_DEPTH = 16


class YamlError(Exception):
    """What is wrong with the text, with its line; the caller knows the file's name."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in node.value:
            name, line = key.value, key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise YamlError(f"line {line}: a key is a list or a block. Put quotes around text that begins with {{.")
            if name in seen:
                raise YamlError(f"line {line}: the key {name!r} is written twice in the same block. Remove one.")
            seen[name] = self.construct_object(value, deep=True)
        return seen

    def construct_number(self, node: yaml.ScalarNode) -> float | int:
        text = node.value.replace("_", "")
        return float(text) if node.tag.endswith("float") else int(text)


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)
for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)


def parse(data: str | bytes) -> tuple[Any, dict[str, int]]:
    """The value, and the line of each key by its dotted path. Raises YamlError."""
    if len(data) > MAX_BYTES:
        raise YamlError(
            f"{len(data):,} bytes; a job file holds at most {MAX_BYTES:,}. Put the prompts in a data file and name it "
            "in input.path."
        )
    try:
        _refuse_unfolding(data)
        loader = _Loader(data)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, {}
            return loader.construct_document(node), dict(_lines(node, ""))
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise YamlError(_marked(error)) from error
    except yaml.YAMLError as error:
        raise YamlError(f"not YAML text: {_first_line(error)}. Save it as UTF-8 without control characters.") from error
    except UnicodeDecodeError as error:
        raise YamlError("not UTF-8 text. Save it as UTF-8.") from error
    except ValueError as error:  # a number of ten thousand digits
        raise YamlError(f"a value does not parse: {_first_line(error)}") from error


def _refuse_unfolding(data: str | bytes) -> None:
    """Depth and aliases are checked on the flat stream of events, before anything recursive looks at the text."""
    depth = 0
    for event in yaml.parse(data, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise YamlError(
                f"line {_line(event)}: *{event.anchor} refers to another part of the file. Write the value out, "
                "or put quotes around text that begins with *."
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise YamlError(f"line {_line(event)}: nested more than {MAX_DEPTH} deep.")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _lines(node: yaml.Node, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            dotted = f"{path}.{key.value}" if path else str(key.value)
            yield dotted, key.start_mark.line + 1
            yield from _lines(value, dotted)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield f"{path}[{index}]", item.start_mark.line + 1
            yield from _lines(item, f"{path}[{index}]")


def _marked(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    reason = error.problem or error.context or "not YAML"
    return f"{place}not valid YAML: {reason}. Check the indentation, and quote text that holds ': ' or begins with {{."


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")
