"""`dgbatch init`: a job file to begin with."""

from __future__ import annotations

from typing import Annotated

import typer

from dgbatch.cli.options import AsJson


def init(
    path: Annotated[str, typer.Argument(metavar="JOB", help="Where to write it.")] = "job.yaml", json: AsJson = False
) -> None:
    """Write a commented job file; as it stands it runs the packaged demo."""
    from importlib.resources import files
    from pathlib import Path

    from dgbatch.cli.output import print_json, say
    from dgbatch.errors import OutputError

    text = files("dgbatch.runner").joinpath("template.yaml").read_text(encoding="utf-8")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        if not Path(path).exists():
            raise OutputError(f"{path}: cannot be written: {Path(path).parent} is a file. Give another path.") from None
        raise OutputError(
            f"{path}: exists already and is not overwritten. Give another name: dgbatch init NAME.yaml"
        ) from None
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}. Give another path.") from error
    if json:
        print_json({"job": path})
    say(f"wrote {path}\nlook at it:  dgbatch plan {path}\nrun it:      dgbatch submit {path}")
