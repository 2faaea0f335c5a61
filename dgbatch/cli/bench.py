"""`dgbatch bench`: what the README's numbers come from, measured on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dgbatch.cli.options import AsJson

bench = typer.Typer(
    help="Measure the engine and the runner on this machine, and the floors physics sets.", no_args_is_help=True
)

Threads = Annotated[int, typer.Option(help="CPU threads of torch, for every side.", min=1)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the JSON object to this file too.")]
Plot = Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw it; needs matplotlib: dgbatch[bench].")]


# of `bench engine`: those that go with --model alone, and those that do not go with it
OF_MODEL = {"prefix", "tiny"}
NOT_OF_MODEL = {"checkpoint", "rows", "repeats", "threads", "max_new_tokens", "batch", "autoregressive", "lockstep"}


@bench.command()
def engine(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Option(help="demo, a folder or a hub id.")] = "demo",
    rows: Annotated[int, typer.Option(help="Prompts, of the packaged ones.", min=1)] = 128,
    repeats: Annotated[int, typer.Option(help="Turns after the warm-up; medians are told.", min=1)] = 3,
    threads: Threads = 2,
    device: Device = "auto",
    max_new_tokens: Annotated[int | None, typer.Option(help="Per prompt; else what the checkpoint says.")] = None,
    canvases: Annotated[
        list[int] | None, typer.Option(help="Canvases in flight, and sequences of the baseline; again for more.", min=1)
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Batches of transformers; again for more.", min=1)] = None,
    transformers: Annotated[bool, typer.Option(help="Compare with transformers' generate.")] = True,
    autoregressive: Annotated[bool, typer.Option(help="Compare with one token a pass.")] = True,
    lockstep: Annotated[bool, typer.Option(help="Compare with lockstep batches.")] = True,
    model: Annotated[
        str | None,
        typer.Option(help="random-26b: ms per step of the real shape with random weights, on a GPU; no checkpoint."),
    ] = None,
    prefix: Annotated[
        list[int] | None, typer.Option(help="With --model: tokens before each canvas; again for more.", min=1)
    ] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="With --model: a tiny shape, a dry run also on a CPU.")] = False,
    out: Out = None,
    plot: Plot = None,
    json: AsJson = False,
) -> None:
    """Our engine against transformers, one token a pass and lockstep batches: same weights, prompts and settings."""
    _refuse(context, OF_MODEL if model is None else NOT_OF_MODEL, "without" if model is None else "with")
    _check(out, plot)
    if model is not None:
        _random(model, device, tiny, canvases, prefix, transformers, out, plot, json)
        return
    from dgbatch.bench.engine import COLUMNS, EngineBench, bench_engine, findings, table_rows
    from dgbatch.cli.output import say

    usual = EngineBench()
    asked = EngineBench(
        checkpoint=checkpoint,
        rows=rows,
        repeats=repeats,
        threads=threads,
        device=device,
        max_new_tokens=max_new_tokens,
        canvases=tuple(sorted(set(canvases or usual.canvases))),
        batches=tuple(sorted(set(batch or usual.batches))),
        lockstep=usual.lockstep if lockstep else (),
        transformers=transformers,
        autoregressive=autoregressive,
    )
    told = bench_engine(asked, say)
    _tell(told, COLUMNS, table_rows(told), findings(told), out, plot, json)


@bench.command()
def kernels(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME ...]", help="With --sweep: these kernels; else all.")
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Try other block sizes: time, limit and bits against those of now.")
    ] = False,
    limit_s: Annotated[
        float | None, typer.Option(help="With --sweep: seconds after which nothing is begun; 420 is usual.", min=0)
    ] = None,
    device: Device = "auto",
    tiny: Annotated[bool, typer.Option("--tiny", help="Tiny shapes: a dry run, also on a CPU.")] = False,
    canvases: Annotated[
        list[int] | None, typer.Option(help="Canvases at once; again for more. 1 and 8 are usual.", min=1)
    ] = None,
    prefix: Annotated[int | None, typer.Option(help="Tokens before each canvas; 1024 is usual.", min=1)] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="One kernel; again for more.")] = None,
    compile: Annotated[bool, typer.Option(help="Compare with torch.compile of the twins.")] = True,
    out: Out = None,
    json: AsJson = False,
) -> None:
    """Each kernel of a denoising step at the real shapes: its time, its own limit, its twin and the twin compiled."""
    from dgbatch.bench.kernels.report import COLUMNS, findings, table_rows
    from dgbatch.bench.kernels.run import KernelsBench, bench_kernels
    from dgbatch.bench.plain import write
    from dgbatch.cli.output import say
    from dgbatch.errors import BenchError

    _check(out, None)
    if sweep:
        if only or not compile:
            raise BenchError("--only and --no-compile do not go with --sweep, which takes names itself")
        _sweep(device, tiny, canvases, prefix, names or [], limit_s, out, json)
        return
    if names or limit_s is not None:
        raise BenchError("names and --limit-s go with --sweep; one kernel as it is: --only NAME")
    asked = KernelsBench.asking(device, tiny, canvases, prefix, only or (), compile, _command())
    told = bench_kernels(asked, say, lambda so_far: write(so_far, out))
    _tell(told, COLUMNS, table_rows(told), findings(told), out, None, json, left=1)


@bench.command()
def roofline(
    checkpoint: Annotated[
        str | None, typer.Option(help="demo, a folder or a hub id; else the real 26B, or demo with --measure.")
    ] = None,
    prefix: Annotated[int, typer.Option(help="Tokens before each canvas.", min=1)] = 1024,
    steps: Annotated[int, typer.Option(help="Denoising steps a canvas, for tokens/s.", min=1)] = 16,
    canvases: Annotated[list[int] | None, typer.Option(help="Canvases in flight; again for more.", min=1)] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Measure this machine and our engine on it.")] = False,
    threads: Threads = 2,
    device: Device = "auto",
    out: Out = None,
    plot: Plot = None,
    json: AsJson = False,
) -> None:
    """The fastest denoising step that memory and arithmetic of known devices allow, by canvases in flight."""
    from dgbatch.bench.roofline import RooflineBench, bench_roofline, columns, findings, table_rows
    from dgbatch.cli.output import say

    asked = RooflineBench(
        checkpoint=checkpoint,
        prefix=prefix,
        steps=steps,
        canvases=tuple(sorted(set(canvases or RooflineBench().canvases))),
        measure=measure,
        threads=threads,
        device=device,
    )
    _check(out, plot)
    told = bench_roofline(asked, say)
    _tell(told, columns(told), table_rows(told), findings(told), out, plot, json)


@bench.command()
def runner(
    rows: Annotated[int, typer.Option(help="Short rows through our runner.", min=1)] = 1_000_000,
    resume_rows: Annotated[int, typer.Option(help="Rows of a run that is 99 % done and goes on.", min=1)] = 1_000_000,
    peer_rows: Annotated[
        int, typer.Option(help="Rows side by side with Ray Data; 0 leaves it out. Needs ray[data].", min=0)
    ] = 500_000,
    peer_limit_s: Annotated[float, typer.Option(help="Most seconds of one run of Ray Data.", min=1)] = 120.0,
    workers: Annotated[int, typer.Option(help="Worker processes, of Ray Data too.", min=1)] = 2,
    dispatch_workers: Annotated[
        int, typer.Option(help="Simulated workers that the driver's decisions are timed with.", min=1)
    ] = 1000,
    folder: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="A new folder for all files; else a temporary one.")
    ] = None,
    out: Out = None,
    plot: Plot = None,
    json: AsJson = False,
) -> None:
    """All that is not the model: plan, workers, commits and proof with an engine that answers at once, and Ray Data."""
    from dgbatch.bench.runner import COLUMNS, RunnerBench, bench_runner, findings, table_rows
    from dgbatch.cli.output import say

    asked = RunnerBench(
        rows=rows,
        resume_rows=resume_rows,
        peer_rows=peer_rows,
        peer_limit_s=peer_limit_s,
        workers=workers,
        dispatch_workers=dispatch_workers,
        folder=folder,
    )
    _check(out, plot)
    told = bench_runner(asked, say)
    _tell(told, COLUMNS, table_rows(told), findings(told), out, plot, json)


def _refuse(context: typer.Context, names: set[str], how: str) -> None:
    """An option that would be passed over in silence is an error."""
    from dgbatch.errors import BenchError

    for name in sorted(names):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise BenchError(f"--{name.replace('_', '-')} does not go {how} --model: leave it out")


def _random(
    model: str,
    device: str,
    tiny: bool,
    canvases: list[int] | None,
    prefixes: list[int] | None,
    transformers: bool,
    out: Path | None,
    plot: Path | None,
    json: bool,
) -> None:
    """`bench engine --model random-26b`."""
    from dgbatch.bench.plain import write
    from dgbatch.bench.random_26b.contender import OURS
    from dgbatch.bench.random_26b.model import NAME
    from dgbatch.bench.random_26b.report import COLUMNS, findings, table_rows
    from dgbatch.bench.random_26b.run import RandomBench, bench_random
    from dgbatch.cli.output import say
    from dgbatch.errors import BenchError

    if model != NAME:
        raise BenchError(f"--model {model}: no such model; known is {NAME}. A checkpoint goes with --checkpoint")
    engines = RandomBench().engines if transformers else (OURS,)
    asked = RandomBench.asking(device, tiny, canvases, prefixes, engines, _command())
    told = bench_random(asked, say, lambda so_far: write(so_far, out))
    _tell(told, COLUMNS, table_rows(told), findings(told), out, plot, json, left=0)


def _sweep(
    device: str,
    tiny: bool,
    canvases: list[int] | None,
    prefix: int | None,
    names: list[str],
    limit_s: float | None,
    out: Path | None,
    json: bool,
) -> None:
    """`bench kernels --sweep`."""
    from dgbatch.bench.kernels.sweep import SweepBench, bench_sweep
    from dgbatch.bench.kernels.sweep_report import findings, tables
    from dgbatch.bench.plain import write
    from dgbatch.cli.output import print_json, say, show

    asked = SweepBench.asking(device, tiny, canvases, prefix, names, limit_s, _command())
    told = bench_sweep(asked, say, lambda so_far: write(so_far, out))
    if json:
        print_json(told)
    else:
        show(*tables(told), *findings(told))


def _command() -> str:
    """What was typed."""
    import shlex
    import sys

    return shlex.join(["dgbatch", *sys.argv[1:]])


def _check(out: Path | None, plot: Path | None) -> None:
    """What would fail after minutes of measuring fails now."""
    from dgbatch.bench.plot import check
    from dgbatch.errors import BenchError

    check(plot)
    for path in filter(None, (out, plot)):
        if not path.absolute().parent.is_dir():
            raise BenchError(f"{path}: no folder {path.absolute().parent}; make it first")


def _tell(
    told: dict[str, Any],
    columns: tuple[str, ...],
    rows: list[tuple[str, ...]],
    lines: list[str],
    out: Path | None,
    plot: Path | None,
    as_json: bool,
    left: int | None = None,
) -> None:
    """left: of a table that takes all of 80 columns, how many of its own hold no numbers."""
    import json

    from dgbatch.bench import plain
    from dgbatch.bench.plot import plot as draw
    from dgbatch.cli.output import print_json, show, table

    if out:
        out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if plot:
        draw(told, plot)
    if as_json:
        print_json(told)
    elif left is not None:
        show(plain.table(columns, rows, left), "", *lines)
    else:
        show(table(columns, rows, right=columns[1:] if columns[0] == "what" else columns[2:]), *lines)
