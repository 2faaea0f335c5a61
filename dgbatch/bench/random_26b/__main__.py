"""`python -m dgbatch.bench.random_26b`: the command without our command line, for a machine that has only torch,
triton, safetensors, tokenizers and transformers."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from dgbatch.bench import plain
from dgbatch.bench.plot import check, plot
from dgbatch.bench.random_26b.report import COLUMNS, findings, table_rows
from dgbatch.bench.random_26b.run import BUDGETS_S, RandomBench, bench_random
from dgbatch.errors import BenchError


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    usual = RandomBench()
    parser = argparse.ArgumentParser(prog="python -m dgbatch.bench.random_26b", description=__doc__)
    parser.add_argument("--device", default=usual.device, help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape: a dry run, also on a CPU")
    parser.add_argument("--canvases", type=int, nargs="+", default=None, help="at once")
    parser.add_argument("--prefix", type=int, nargs="+", default=None, help="tokens before each canvas")
    parser.add_argument("--engine", nargs="+", choices=list(BUDGETS_S), default=usual.engines, help="who takes part")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON object there, after every cell")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it; needs matplotlib")
    asked = parser.parse_args(arguments)
    command = shlex.join(["python", "-m", "dgbatch.bench.random_26b", *arguments])
    try:
        check(asked.plot)
        plain.has_folder(asked.out, asked.plot)
        bench = RandomBench.asking(
            device=asked.device, tiny=asked.tiny, canvases=asked.canvases, prefixes=asked.prefix,
            engines=tuple(asked.engine), command=command,
        )  # fmt: skip
        told = bench_random(bench, plain.say, lambda so_far: plain.write(so_far, asked.out))
        if asked.plot:
            plot(told, asked.plot)
    except BenchError as error:
        plain.say(f"error: {error}")
        return error.exit_code
    print(plain.table(COLUMNS, table_rows(told), left=0))
    print("", *findings(told), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
