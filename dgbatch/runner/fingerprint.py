"""What makes two jobs the same one: everything that decides tokens or rows, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dgbatch.runner.storage.location import DEMO

if TYPE_CHECKING:
    from dgbatch.runner.plan import Plan
    from dgbatch.runner.spec import JobSpec

PACKAGED = DEMO.parent / "checkpoint"


def _what_counts(public: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a job that decide tokens or rows, out of `JobSpec.public`."""
    parts = {key: public[key] for key in ("model", "input", "prompt", "generation", "accept") if key in public}
    if os.path.realpath(str(parts.get("model", {}).get("checkpoint"))) == os.path.realpath(PACKAGED):
        parts["model"] = {**parts["model"], "checkpoint": "demo"}  # by its path it is the same one
    if "output" in public:
        keys = ("format", "columns", "metrics")
        parts["output"] = {key: public["output"][key] for key in keys if key in public["output"]}
    if "shard_rows" in public.get("workers", {}):
        parts["workers"] = {"shard_rows": public["workers"]["shard_rows"]}
    return parts


def fingerprint(spec: JobSpec, plan: Plan) -> str:
    """sha256 over everything that changes tokens or rows: two runs with the same one may share a folder.

    Not in it: name, worker count, GPUs, canvases, retry, where input and output lie. Input files count by their names,
    sizes and checksums.
    """
    parts = _what_counts(spec.public())
    parts["input"].pop("path")
    parts["files"] = [[file.name, file.bytes, file.rows, file.digest] for file in plan.files]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def changed_fields(
    old: Mapping[str, Any], new: Mapping[str, Any], all_of_them: bool = False
) -> list[tuple[str, Any, Any]]:
    """(path, before, after) of each field that differs in two `JobSpec.public`; None: not set.

    Of those that count alone, unless all of them are asked for. Where the input lies does not count.
    """
    if not all_of_them:
        old, new = _what_counts(old), _what_counts(new)
        for parts in (old, new):
            parts["input"] = {key: value for key, value in parts.get("input", {}).items() if key != "path"}
    before, after = dict(_leaves(old)), dict(_leaves(new))
    paths = [*before, *(path for path in after if path not in before)]
    values = [(path, before.get(path), after.get(path)) for path in paths]
    return [(path, was, now) for path, was, now in values if was != now]


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, inside in value.items():
        if isinstance(inside, Mapping):
            yield from _leaves(inside, f"{path}{key}.")
        else:
            yield f"{path}{key}", list(inside) if isinstance(inside, tuple) else inside
