"""`dgbatch bench`: what the README's numbers come from, measured on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from dgbatch.cli.bench_gpu import kernels, random_26b
from dgbatch.cli.bench_output import Device, Out, Plot, check, tell
from dgbatch.cli.options import AsJson

bench = typer.Typer(
    help="Measure the engine and the runner on this machine, and the floors physics sets.", no_args_is_help=True
)

Threads = Annotated[int, typer.Option(help="CPU threads of torch, for every side.", min=1)]

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
    check(out, plot)
    if model is not None:
        random_26b(model, device, tiny, canvases, prefix, transformers, out, plot, json)
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
    tell(told, COLUMNS, table_rows(told), findings(told), out, plot, json)


bench.command()(kernels)


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
    check(out, plot)
    told = bench_roofline(asked, say)
    tell(told, columns(told), table_rows(told), findings(told), out, plot, json)


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
    check(out, plot)
    told = bench_runner(asked, say)
    tell(told, COLUMNS, table_rows(told), findings(told), out, plot, json)


def _refuse(context: typer.Context, names: set[str], how: str) -> None:
    """An option that would be passed over in silence is an error."""
    from dgbatch.errors import BenchError

    for name in sorted(names):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise BenchError(f"--{name.replace('_', '-')} does not go {how} --model: leave it out")
