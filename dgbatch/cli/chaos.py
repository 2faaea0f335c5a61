"""`dgbatch chaos`: break a job on purpose, and see that nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dgbatch.cli.options import AsJson, JobFile, Overrides

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dgbatch.runner.fault_injection.outcome import Survived

Kill = Annotated[
    str,
    typer.Option(
        "--kill",
        metavar="WHO@WHEN,...",
        help="SIGKILL a worker, the driver or a node: 5s after the first worker was ready, at 40% of the rows, or at a "
        "moment of a shard: generated, written, committed.",
    ),
]
Hang = Annotated[str, typer.Option("--hang", metavar="worker@WHEN,...", help="SIGSTOP a worker.")]
DiskFull = Annotated[bool, typer.Option("--disk-full", help="Refuse every write for a while, as a full disk does.")]
StoreErrors = Annotated[
    float,
    typer.Option("--store-errors", metavar="RATIO", help="Refuse this share of all requests, as a busy store does."),
]
Keep = Annotated[bool, typer.Option("--keep", help="Leave the scratch run and the logs of its submits there.")]


def chaos(
    job: JobFile,
    kill: Kill = "",
    hang: Hang = "",
    disk_full: DiskFull = False,
    store_errors: StoreErrors = 0.0,
    overrides: Overrides = [],  # noqa: B006  # typer copies it
    keep: Keep = False,
    json: AsJson = False,
) -> None:
    """Run a job in a scratch copy while things go wrong, submit it again each time, and verify the end.

    Exit code 4 when the dataset does not hold, or when a fault did not happen.
    """
    from dgbatch.cli.output import print_json, say
    from dgbatch.errors import JobError
    from dgbatch.runner.fault_injection import chaos as steps
    from dgbatch.runner.fault_injection.fault_plan import fault_plan
    from dgbatch.runner.spec import load_job

    try:
        faults = fault_plan(kill, hang, disk_full, store_errors)
    except JobError:
        load_job(job, overrides)  # what is wrong with the job is the first thing to say
        raise
    survived = steps.chaos(job, faults, overrides, keep, tell=say)
    if json:
        print_json(survived.to_json())
    else:
        from rich.console import Console

        screen = Console(width=80, highlight=False, markup=False)
        for part in summary(survived):
            screen.print(part, soft_wrap=isinstance(part, str))
    raise typer.Exit(0 if survived.ok else 4)


def summary(survived: Survived) -> list[RenderableType]:
    """What happened, what the run made of it, and whether it holds."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from dgbatch.cli.output import plural
    from dgbatch.cli.verify import equation

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, width=80)
    for name in ("fault", "at", "what happened", "and then"):
        table.add_column(name, justify="right" if name == "at" else "left", overflow="fold")
    for each in survived.outcomes:
        at = "never" if each.at_s is None else f"{each.at_s:.1f} s"
        style = "" if each.happened else "red"
        table.add_row(*(Text(cell, style) for cell in (str(each.fault), at, each.what, each.answer or "-")))
    codes = ", ".join("killed" if code < 0 else str(code) for code in survived.exit_codes)
    lines: list[RenderableType] = [
        table,
        f"{plural(len(survived.exit_codes), 'submit')}: {codes}; {survived.seconds:.0f} s in all",
    ]
    if survived.verification is None:
        lines.append(f"no dataset came of it: {survived.reason}")
    else:
        lines += [equation(survived.verification)]
        lines += [
            f"  {kind}: {example}" for kind, examples in survived.verification.examples.items() for example in examples
        ]
    missed = sum(not each.happened for each in survived.outcomes)
    if missed:
        lines.append(f"{plural(missed, 'fault')} did not happen: take a longer job (input.limit) or an earlier moment.")
    if survived.kept:
        lines.append(f"kept: {survived.kept}")
    lines.append("it holds: nothing lost, nothing twice" if survived.ok else "NOT PROVEN")
    return lines
