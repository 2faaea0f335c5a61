"""`python -m dgbatch.bench.kernels`: the command without our command line, where only torch and triton are."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from dgbatch.bench import plain
from dgbatch.bench.kernels.report import COLUMNS, findings, table_rows
from dgbatch.bench.kernels.run import KernelsBench, bench_kernels
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
    asked = parser.parse_args(arguments)
    command = shlex.join(["python", "-m", "dgbatch.bench.kernels", *arguments])
    try:
        plain.has_folder(asked.out)
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
