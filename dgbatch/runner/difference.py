"""What differs between the job of a run and the one that is submitted into its folder: for people, line by line.

generation.seed: 0 -> 7
prompt.template
  - Add the numbers: {{ numbers }}
  + Add up: {{ numbers }}
input file prompts.parquet
  - 1,000 rows, 40,113 bytes, footer 3f9c21ab4f5e
  + 1,001 rows, 40,121 bytes, footer 77aa01bc93d0
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dgbatch.runner import formats
from dgbatch.runner.fingerprint import changed_fields

if TYPE_CHECKING:
    from dgbatch.runner.plan import InputFile, Plan

WIDTH = 76  # of a line with both values in it; a terminal has 80
LONGEST = 400  # characters of one line of a value; the job file has the rest
DIGITS = 12  # of a checksum: enough to tell two apart


def job_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines on two `JobSpec.public`, of what decides rows or tokens."""
    return setting_lines(changed_fields(old, new))


def input_difference(old: Plan, new: Plan) -> list[str]:
    """Lines on the input files of two plans: which one, what it was, what it is."""
    before, after = ({file.name: file for file in plan.files} for plan in (old, new))
    names = [*before, *(name for name in after if name not in before)]
    return [
        line
        for name in names
        if before.get(name) != after.get(name)
        for line in _apart(f"input file {setting_text(name)}", _file(before.get(name)), _file(after.get(name)))
    ]


def model_difference(checkpoint: str, was: str, now: str) -> list[str]:
    """Lines on the files of a checkpoint of which only the checksums are known."""
    return _apart(f"model files of {setting_text(checkpoint)}", f"checksum {was[:DIGITS]}", f"checksum {now[:DIGITS]}")


def setting_lines(changed: Iterable[tuple[str, Any, Any]]) -> list[str]:
    """Lines on settings, each (path, before, after)."""
    return [line for path, was, now in changed for line in _lines(path, setting_text(was), setting_text(now))]


def _lines(what: str, was: str, now: str) -> list[str]:
    together = f"{what}: {was} -> {now}"
    if len(together) <= WIDTH and "\n" not in together and " -> " not in was + now:
        return [together]
    return _apart(what, was, now)


def _apart(what: str, was: str, now: str) -> list[str]:
    """Only the lines that differ, of a text that has many."""
    different = difflib.ndiff(was.splitlines(), now.splitlines())
    return [what, *(f"  {line[:LONGEST]}" for line in different if line[0] in "-+")]


def _file(file: InputFile | None) -> str:
    if file is None:
        return "no such file"
    part = "footer" if formats.format_of(file.name) == "parquet" else "content"
    return f"{file.rows:,} rows, {file.bytes:,} bytes, {part} {file.digest[:DIGITS]}"


def setting_text(value: Any) -> str:
    """A value of a setting as people are shown it: nothing in it moves the cursor."""
    if value is None:
        return "not set"
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    shown = "".join(_printable(value))
    return shown if shown.strip() == shown and shown else json.dumps(value, ensure_ascii=False)


def _printable(text: str) -> Iterator[str]:
    """A value may hold what moves the cursor, and this goes to a terminal."""
    for letter in text:
        yield letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
