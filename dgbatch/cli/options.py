"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

JobFile = Annotated[str, typer.Argument(metavar="JOB", help="The job file, such as jobs/demo.yaml.")]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="The run folder: output.path of the job.")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a field of the job file; may be given again."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
