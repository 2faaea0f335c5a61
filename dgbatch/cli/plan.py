"""`dgbatch plan`: what a submit would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from json import dumps
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgbatch.cli.options import AsJson, JobFile, Overrides

if TYPE_CHECKING:
    from dgbatch.runner.outlook import Outlook
    from dgbatch.runner.plan import Plan
    from dgbatch.runner.preview import Rendered
    from dgbatch.runner.spec import JobSpec


MOST_CHARACTERS = 4000  # of a prompt on the screen; --json has all of it


def plan(
    job: JobFile,
    overrides: Overrides = [],  # noqa: B006  # typer copies it
    preview: Annotated[int, typer.Option(help="Prompts to show as the model will read them.", min=0)] = 3,
    json: AsJson = False,
) -> None:
    """Check a job and its input, and show the first prompts; starts and writes nothing."""
    from dgbatch.cli.output import print_json
    from dgbatch.runner.fingerprint import fingerprint
    from dgbatch.runner.outlook import outlook
    from dgbatch.runner.plan import make_plan
    from dgbatch.runner.preview import preview as render
    from dgbatch.runner.schema import schemas
    from dgbatch.runner.spec import hiding_secrets, load_job

    spec = load_job(job, overrides)
    with hiding_secrets(spec):
        made = make_plan(spec)
        schemas(spec, made.schema)  # raises for columns that clash
        prompts = render(spec, made, preview)
        found = outlook(spec, made)
    if json:
        print_json(
            {
                "name": spec.name,
                "output": spec.public()["output"]["path"],
                "rows": made.rows,
                "samples": made.samples,
                "expected": made.expected,
                "shards": len(made.shards),
                "files": [{"name": file.name, "bytes": file.bytes, "rows": file.rows} for file in made.files],
                "in_flight": _noted(spec.output.path),
                "fingerprint": fingerprint(spec, made),
                "run": {"state": found.state, "done": found.done, "changed": found.changed},
                "preview": [
                    {
                        "id": prompt.id,
                        "text": prompt.text,
                        "tokens": prompt.tokens,
                        "error": prompt.error,
                        "generation": prompt.generation,
                    }
                    for prompt in prompts
                ],
            }
        )
    else:
        _show(_again(job, overrides), spec, made, found, prompts)


def _noted(path: str) -> Mapping[str, Any]:
    """What an earlier submit into this folder measured."""
    from dgbatch.errors import DgbatchError
    from dgbatch.runner.run_folder import Run

    try:
        return Run.open(path).canvases
    except DgbatchError:  # no run yet, which is the rule
        return {}


def _again(job: str, overrides: Sequence[str]) -> str:
    """The job and its overrides as somebody would type them."""
    return " ".join([quote(job), *(f"--set {quote(override)}" for override in overrides)])


def _cuts(made: Plan) -> str:
    """Why there are more shards than the rows ask for."""
    from dgbatch.cli.output import plural

    groups = len({(shard.file, shard.row_group) for shard in made.shards})
    return f" that end with the {plural(groups, 'row group')} of the input" if groups > 1 else ""


def _finds(found: Outlook, made: Plan) -> str:
    if found.state == "refused":
        return "submit will refuse. Use --new-run to start anew beside what is there:"
    return {
        "new": "a new run",
        "resumes": f"submit goes on with the run that is there, {found.done:,} of {made.expected:,} rows are done",
        "complete": "the run that is there is complete, submit has nothing to do",
    }[found.state]


def _show(job: str, spec: JobSpec, made: Plan, found: Outlook, prompts: list[Rendered]) -> None:
    from rich.panel import Panel
    from rich.text import Text

    from dgbatch.cli.curve import in_flight
    from dgbatch.cli.output import console, plural, short
    from dgbatch.runner.terminal.plain import printable

    screen = console()
    each = f" x {made.samples} samples = {made.expected:,} completions" if made.samples > 1 else ""
    screen.print(
        f"{spec.name}: {plural(made.rows, 'row')}{each}, from {plural(len(made.files), 'file')}, in "
        f"{plural(len(made.shards), 'shard')} of at most {plural(spec.workers.shard_rows, 'row')}{_cuts(made)}"
    )
    path = spec.public()["output"]["path"]
    screen.print(f"output: {short(path)}: {_finds(found, made)}")
    for line in found.changed:
        screen.print(f"  {printable(line)}")
    for line in in_flight(_noted(spec.output.path)):
        screen.print(f"in flight when it ran: {line}")
    for prompt in prompts:
        name = printable(prompt.id)
        tokens = "" if prompt.tokens is None else f", {plural(prompt.tokens, 'token')}"
        if prompt.error:
            screen.print(f"{name}: would be quarantined: {printable(prompt.error)}")
        else:
            text = printable(prompt.text.rstrip("\n"))
            if len(text) > MOST_CHARACTERS:
                text = f"{text[:MOST_CHARACTERS]}\n... and {plural(len(text) - MOST_CHARACTERS, 'character')} more"
            screen.print(Panel(Text(text), title=Text(f"{name}{tokens}"), title_align="left", width=80))
            if prompt.generation:
                said = ", ".join(f"{name}={dumps(value)}" for name, value in prompt.generation.items())
                screen.print(f"{name} overrides: {printable(said)}")
    new_run = " --new-run" if found.state == "refused" else ""
    screen.print(f"run it: dgbatch submit {job}{new_run}")
