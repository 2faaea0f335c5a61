"""`dgbatch dashboards`: what Grafana and Prometheus need to watch jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from dgbatch.cli.options import AsJson

dashboards = typer.Typer(help="Grafana dashboards and Prometheus rules for dgbatch.", no_args_is_help=True)


@dashboards.command()
def export(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where to write them.")],
    targets: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where drivers announce themselves; else where yours do.")
    ] = None,
    prometheus: Annotated[str, typer.Option(metavar="URL", help="Where Grafana finds Prometheus.")] = (
        "http://127.0.0.1:9090"
    ),
    runbooks: Annotated[
        str | None, typer.Option(metavar="URL", help="Where your team reads alerts.md; else the copy in DIR.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there with other content.")] = False,
    json: AsJson = False,
) -> None:
    """Write dashboards, recording and alert rules, runbooks, and the provisioning of Grafana and Prometheus."""
    import os
    from shlex import quote

    from dgbatch.cli.output import plural, print_json, say, short
    from dgbatch.runner.dashboards import export as write
    from dgbatch.runner.metering.targets import targets_folder

    written = write(folder, targets or str(targets_folder()), prometheus, runbooks, force)
    if json:
        print_json({"folder": folder, "files": [str(path) for path in written]})
    here = quote(short(os.path.abspath(folder)))
    say(f"wrote {plural(len(written), 'file')} to {here}")
    say(f"watch your jobs:  prometheus --config.file={here}/prometheus.yaml")
    say(f"draw them:        GF_PATHS_PROVISIONING={quote(os.path.abspath(folder))}/grafana/provisioning grafana server")
