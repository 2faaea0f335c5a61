"""`--set key.path=value`: a field of the job file, written on the command line."""

from __future__ import annotations

from typing import Any

from dgbatch.errors import JobError
from dgbatch.runner import job_yaml
from dgbatch.runner.complaints import inner_block, kinds


def apply_override(data: dict[str, Any], override: str, root: Any) -> str:
    """Write one `key.path=value` of the command line into the data of the job file; returns the path.

    A field of text takes the value as it is; in quotes, and for all other fields, it is YAML. `root` is the job model.
    """
    path, equals, raw = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise JobError(f"--set {override}: not of the form key.path=value, as in --set generation.seed=1")
    inside = data
    for depth, key in enumerate(keys[:-1]):
        below = inside.get(key)
        if below is None:
            below = inside[key] = {}
        if not isinstance(below, dict):
            raise JobError(f"--set {override}: {'.'.join(keys[: depth + 1])} is a value and has no keys inside.")
        inside = below
    inside[keys[-1]] = _value(override, keys, raw, root)
    return ".".join(keys)


def _value(override: str, keys: list[str], raw: str, root: Any) -> Any:
    text = raw.strip()
    is_text = _is_text(keys, root)
    if is_text and not text.startswith(("'", '"')) and text not in ("", "null", "~"):
        return raw  # a template may hold braces, colons and hashes
    try:
        return job_yaml.parse(raw)[0]
    except job_yaml.YamlError as error:
        if is_text:
            return raw  # as in input.where="id" = 3: a quote, and more after it
        raise JobError(f"--set {override}: {error}") from error


def _is_text(keys: list[str], root: Any) -> bool:
    """Whether the field of this path takes text and nothing else (null aside)."""
    block = root
    for key in keys[:-1]:
        field = block.model_fields.get(key)
        block = inner_block(field.annotation) if field else None
        if block is None:
            return False
    field = block.model_fields.get(keys[-1])
    return field is not None and set(kinds(field.annotation)) - {type(None)} == {str}
