"""Write the reference pages that are made from code: docs/job.md from JobSpec, docs/cli.md from the commands.

    python docs/generate.py

tests/test_docs.py fails while a page on disk differs from what the code says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer

from dgbatch.cli import app
from dgbatch.runner.complaints import expected, kinds
from dgbatch.runner.spec import JobSpec

DOCS = Path(__file__).parent
NOTE = "<!-- Made by docs/generate.py from the code: change it there. -->"


def job_page() -> str:
    """Every key of a job file, with what it takes and its default."""
    lines = [
        "# The job file",
        "",
        NOTE,
        "",
        "YAML. Unknown keys are errors; relative paths are relative to the job file; `${NAME}` reads the environment",
        "in locations, and its value is never written anywhere. `--set key.path=value` overrides any key.",
        "",
        "| key | takes | default | meaning |",
        "| --- | --- | --- | --- |",
        *_rows(JobSpec, ""),
    ]
    return "\n".join(lines) + "\n"


def _rows(model: Any, path: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        block = next((kind for kind in kinds(field.annotation) if hasattr(kind, "model_fields")), None)
        if block is not None:
            wanted = "" if not field.is_required() else " (required)"
            yield f"| **`{path}{name}`** |{wanted} | | {field.description} |"
            yield from _rows(block, f"{path}{name}.")
            continue
        yield _row(f"{path}{name}", field)
        for inside in (block for kind in kinds(field.annotation) for block in get_args(kind)):
            if hasattr(inside, "model_fields"):
                yield from _rows(inside, f"{path}{name}[].")


def _row(path: str, field: Any) -> str:
    default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
    return f"| `{path}` | {expected(field.annotation)} | {default} | {field.description} |"


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return "none" if value == () else f"`{value}`"


def cli_page() -> str:
    """Every command with its arguments and options."""
    command = typer.main.get_command(app)
    lines = ["# Commands", "", NOTE, "", *command.epilog.splitlines(), ""]
    for name, sub in _commands(command):
        arguments = " ".join(p.name.upper() for p in sub.params if p.param_type_name == "argument")
        lines += [f"## `dgbatch {name} {arguments}".rstrip() + "`", "", *sub.help.strip().splitlines(), ""]
        options = [p for p in sub.params if p.param_type_name == "option" and not p.hidden and p.name != "help"]
        if options:
            lines += ["| option | meaning |", "| --- | --- |"]
            lines += [f"| `{', '.join([*p.opts, *p.secondary_opts])}` | {p.help or ''} |" for p in options]
            lines.append("")
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its full name; a group gives those in it."""
    for name, sub in group.commands.items():
        if hasattr(sub, "commands"):
            yield from _commands(sub, f"{before}{name} ")
        else:
            yield f"{before}{name}", sub


PAGES = {"job.md": job_page, "cli.md": cli_page}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write(), encoding="utf-8")
