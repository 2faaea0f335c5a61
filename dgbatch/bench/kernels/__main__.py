"""`python -m dgbatch.bench.kernels`: the command without our command line, where only torch and triton are."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from dgbatch.bench import plain
from dgbatch.bench.kernels import sweep_report
from dgbatch.bench.kernels.report import COLUMNS, findings, table_rows
from dgbatch.bench.kernels.run import KernelsBench, bench_kernels
from dgbatch.bench.kernels.sweep import SweepBench, bench_sweep
from dgbatch.errors import BenchError


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m dgbatch.bench.kernels", description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: a dry run, also on a CPU")
    parser.add_argument("--canvases", type=int, nargs="+", help="at once; 1 and 8 are usual")
    parser.add_argument("--prefix", type=int, help="tokens before each canvas; 1024 is usual")
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="of cases or operations")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile of the twins out")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON object there, after every case")
    parser.add_argument("--sweep", nargs="*", metavar="NAME", help="try other block sizes, of these kernels or of all")
    parser.add_argument("--limit-s", type=float, metavar="S", help="with --sweep: begin nothing later; 420 is usual")
    asked = parser.parse_args(arguments)
    if asked.sweep is None and asked.limit_s is not None:
        parser.error("--limit-s goes with --sweep")
    if asked.sweep is not None and (asked.only or asked.no_compile):
        parser.error("--only and --no-compile do not go with --sweep: leave them out")
    command = shlex.join(["python", "-m", "dgbatch.bench.kernels", *arguments])
    try:
        plain.has_folder(asked.out)
        if asked.sweep is not None:
            sweep = SweepBench.asking(
                device=asked.device, tiny=asked.tiny, canvases=asked.canvases, prefix=asked.prefix, only=asked.sweep,
                limit_s=asked.limit_s, command=command,
            )  # fmt: skip
            swept = bench_sweep(sweep, plain.say, lambda so_far: plain.write(so_far, asked.out))
            print(*sweep_report.tables(swept), *sweep_report.findings(swept), sep="\n")
            return 0
        bench = KernelsBench.asking(
            device=asked.device, tiny=asked.tiny, canvases=asked.canvases, prefix=asked.prefix, only=asked.only,
            compile=not asked.no_compile, command=command,
        )  # fmt: skip
        told = bench_kernels(bench, plain.say, lambda so_far: plain.write(so_far, asked.out))
    except BenchError as error:
        plain.say(f"error: {error}")
        return error.exit_code
    print(plain.table(COLUMNS, table_rows(told)))
    print("", *findings(told), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
