"""The benchmarks of our kernels: `dgbatch bench kernels`, and `dgbatch bench engine --model random-26b`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgbatch.cli.bench_output import Device, Out, check, tell, typed
from dgbatch.cli.options import AsJson


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

    check(out, None)
    if sweep:
        if only or not compile:
            raise BenchError("--only and --no-compile do not go with --sweep: leave them out")
        _sweep(device, tiny, canvases, prefix, names or [], limit_s, out, json)
        return
    if names or limit_s is not None:
        raise BenchError("names and --limit-s go with --sweep; one kernel as it is: --only NAME")
    asked = KernelsBench.asking(device, tiny, canvases, prefix, only or (), compile, typed())
    told = bench_kernels(asked, say, lambda so_far: write(so_far, out))
    tell(told, COLUMNS, table_rows(told), findings(told), out, None, json, left=1)


def random_26b(
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
    """`bench engine --model random-26b`. Raises BenchError for another model."""
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
    asked = RandomBench.asking(device, tiny, canvases, prefixes, engines, typed())
    told = bench_random(asked, say, lambda so_far: write(so_far, out))
    tell(told, COLUMNS, table_rows(told), findings(told), out, plot, json, left=0)


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

    asked = SweepBench.asking(device, tiny, canvases, prefix, names, limit_s, typed())
    told = bench_sweep(asked, say, lambda so_far: write(so_far, out))
    if json:
        print_json(told)
    else:
        show(*tables(told), *findings(told))
