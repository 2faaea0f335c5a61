"""pydantic's findings as plain sentences: the key's dotted path and line, the value, what it should be."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

MOST = 8  # complaints shown; an error fits on one screen

# pydantic's word for the finding -> our sentence, filled from its context
BOUNDS = ("ge", "gt", "le", "lt")
LIMITS = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "finite_number": "must be a finite number",
    "string_unicode": "is not text that UTF-8 can hold",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
}


def complaints(errors: Sequence[Mapping[str, Any]], root: Any, source: str, lines: Mapping[str, int]) -> str:
    """One sentence per finding, at most a screenful. `root` is the model that was validated."""
    found = sentences(errors, root, lines)
    if len(found) == 1:
        return f"{source}: {found[0]}"
    listed = [*found[:MOST], *([f"and {len(found) - MOST} more"] if len(found) > MOST else [])]
    return "\n  ".join([f"{source}: {len(found)} problems", *listed])


def sentences(
    errors: Sequence[Mapping[str, Any]], root: Any, lines: Mapping[str, int] = MappingProxyType({})
) -> list[str]:
    """One sentence per finding, each with its key and, where that is known, its line; in the order of the lines."""
    found: dict[str, str] = {}
    places = [tuple(error["loc"]) for error in errors]
    for error in errors:
        if any(len(place) > len(error["loc"]) and place[: len(error["loc"])] == error["loc"] for place in places):
            continue  # a list found wanting because of what is wrong inside it
        keys, annotation = _field(root, error["loc"])
        path = _dotted(keys)
        found.setdefault(path, _sentence(error, keys, annotation, root))
    in_order = sorted(found, key=lambda path: lines.get(path, float("inf")))
    return [f"{_place(path, lines)}{found[path]}" for path in in_order]


def _sentence(error: Mapping[str, Any], keys: tuple[str | int, ...], annotation: Any, root: Any) -> str:
    path, kind, value = _dotted(keys), error["type"], error.get("input")
    if kind == "extra_forbidden":
        return f"{path}: unknown key. {_nearest(keys, root)}"
    if kind == "missing":
        return f"{path}: missing. It takes {expected(annotation)}.{_described(keys, root)}"
    if kind == "value_error":
        return f"{path}: {error['ctx']['error']}"
    if kind in LIMITS and len([kind for kind in kinds(annotation) if kind is not type(None)]) == 1:
        return f"{path}: {shown(value)} {LIMITS[kind].format(**_numbers(error.get('ctx', {})))}."
    if kind == "string_pattern_mismatch":
        return f"{path}: {shown(value)} does not fit.{_described(keys, root)}"
    if value is None:
        return f"{path}: has no value. It takes {expected(annotation)}.{_described(keys, root)}"
    quotes = ""
    if isinstance(value, (bool, int, float)) and str in kinds(annotation):
        quotes = " Put it in quotes."
    return f"{path}: {shown(value)} is {kind_of(value)}; it takes {expected(annotation)}.{quotes}"


def _numbers(context: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: f"{value:g}" if isinstance(value, float) else f"{value:,}"
        for key, value in context.items()
        if key in BOUNDS
    }


def expected(annotation: Any) -> str:
    """What a field takes, in words."""
    if get_origin(annotation) is Annotated:
        inner, *rest = get_args(annotation)
        least = next((m.ge for field in rest for m in getattr(field, "metadata", [field]) if hasattr(m, "ge")), None)
        return expected(inner) + (f" of at least {least:g}" if least is not None else "")
    if get_origin(annotation) is Literal:
        *first, last = [str(choice) for choice in get_args(annotation)]
        return f"{', '.join(first)} or {last}" if first else last
    if _is_union(annotation):
        return " or ".join(expected(kind) for kind in get_args(annotation) if kind is not type(None))
    if get_origin(annotation) is tuple:
        return f"a list, each of {expected(get_args(annotation)[0])}"
    if hasattr(annotation, "model_fields"):
        return f"a block with the keys {', '.join(annotation.model_fields)}"
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}.get(annotation, "a value")


def shown(value: Any, most: int = 60) -> str:
    """A value as the user wrote it, cut to a readable length."""
    text = ("true" if value else "false") if isinstance(value, bool) else repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a block of keys",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)


def kinds(annotation: Any) -> Iterator[Any]:
    """The plain types a field takes, unions and annotations opened."""
    if get_origin(annotation) is Annotated:
        yield from kinds(get_args(annotation)[0])
    elif _is_union(annotation):
        for kind in get_args(annotation):
            yield from kinds(kind)
    else:
        yield annotation


def inner_block(annotation: Any) -> Any:
    """The block among the types a field takes, or None."""
    return next((kind for kind in kinds(annotation) if hasattr(kind, "model_fields")), None)


def _field(root: Any, location: Sequence[str | int]) -> tuple[tuple[str | int, ...], Any]:
    """The keys of a finding's location, and what its field takes; a union's inner tags are dropped."""
    keys: list[str | int] = []
    annotation: Any = root
    for part in location:
        block = inner_block(annotation)
        if block is not None and isinstance(part, str):
            keys.append(part)
            field = block.model_fields.get(part)
            if field is None:
                return tuple(keys), None
            parts: Any = (field.annotation, *field.metadata)
            annotation = Annotated[parts] if field.metadata else field.annotation
        elif isinstance(part, int):
            keys.append(part)
            items = next((kind for kind in kinds(annotation) if get_origin(kind) is tuple), None)
            annotation = get_args(items)[0] if items is not None else None
        else:
            break
    return tuple(keys), annotation


def _dotted(keys: Sequence[str | int]) -> str:
    path = ""
    for key in keys:
        path += f"[{key}]" if isinstance(key, int) else f".{key}" if path else key
    return path or "the job"


def _place(path: str, lines: Mapping[str, int]) -> str:
    return f"line {lines[path]}: " if path in lines else ""


def _described(keys: Sequence[str | int], root: Any) -> str:
    block: Any = root
    for key in keys[:-1]:
        block = inner_block(block.model_fields[key].annotation) if isinstance(key, str) and block is not None else None
    field = block.model_fields.get(keys[-1]) if block is not None and keys else None
    return f" {field.description}" if field is not None and field.description else ""


def _nearest(keys: tuple[str | int, ...], root: Any) -> str:
    """The nearest key in the same block, else the nearest of the whole file; and what the block knows."""
    _, annotation = _field(root, keys[:-1])
    block = inner_block(annotation)
    known = list(block.model_fields) if block is not None else []
    parent = _dotted(keys[:-1])
    where = f"{parent} has" if keys[:-1] else "A job has"
    key = str(keys[-1])
    if close := difflib.get_close_matches(key, known, 1, 0.6):
        return f"Did you mean {_dotted((*keys[:-1], close[0]))}?"
    elsewhere: dict[str, list[str]] = {}
    for name, path in _paths(root):
        elsewhere.setdefault(name, []).append(path)
    if close := difflib.get_close_matches(key, elsewhere, 1, 0.75):
        return f"Did you mean {' or '.join(elsewhere[close[0]])}?"
    return f"{where}: {', '.join(known)}."


def _paths(block: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Last part and dotted path of every key of the file."""
    for name, field in block.model_fields.items():
        yield name, f"{path}{name}"
        inner = inner_block(field.annotation)
        if inner is not None:
            yield from _paths(inner, f"{path}{name}.")


def no_column(wanted_by: str, name: str, columns: Sequence[str], where: str = "the input") -> str:
    """A column that is not there: the nearest one that is, and all of them."""
    lower = {column.lower(): column for column in columns}
    close = difflib.get_close_matches(name.lower(), lower, 1, 0.6)
    hint = f" Did you mean {lower[close[0]]!r}?" if close else ""
    listed = ", ".join(columns[:40]) + (f" and {len(columns) - 40} more" if len(columns) > 40 else "")
    return f"{wanted_by}: {where} has no column {name!r}.{hint} It has: {listed or 'no columns'}."
