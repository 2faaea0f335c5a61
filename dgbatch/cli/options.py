"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

JobFile = Annotated[str, typer.Argument(metavar="JOB", help="The job file, such as jobs/demo.yaml.")]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="The run: output.path of the job, a folder or a URI.")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a field of the job file; may be given again."),
]
JsonLines = Annotated[
    bool,
    typer.Option(
        "--json-lines", help="Print JSON on standard output while it runs: an object a line, the last that of --json."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
