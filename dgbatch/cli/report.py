"""`dgbatch report`: a run as one HTML page."""

from __future__ import annotations

from typing import Annotated

import typer

from dgbatch.cli.options import AsJson, RunFolder


def report(
    run: RunFolder,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Where to write; _dgbatch/report.html of the run when left out.")
    ] = None,
    price_per_gpu_hour: Annotated[
        float | None, typer.Option(metavar="X", min=0, help="Adds what the run cost, in whatever money X is.")
    ] = None,
    show_it: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    json: AsJson = False,
) -> None:
    """Write a run as one HTML page: speed, quality, quarantine, cost, how to make it again. It needs no network."""
    import webbrowser
    from pathlib import Path

    from dgbatch.cli.output import print_json, say, short
    from dgbatch.runner.pages.page import write_report
    from dgbatch.runner.run_folder import Run
    from dgbatch.runner.spec import hiding_secrets

    opened = Run.open(run)
    with hiding_secrets(opened.spec):
        written = write_report(opened, out, price_per_gpu_hour)
    if json:
        print_json({"run": run, "file": written.path, "bytes": written.bytes, **written.figures.to_json()})
    say(f"wrote {short(written.path)} ({written.bytes / 1e6:.1f} MB)")
    if show_it and "://" not in written.path:
        webbrowser.open(Path(written.path).absolute().as_uri())
