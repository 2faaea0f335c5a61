"""Every candidate of a sweep in Triton's interpreter, at the tiny odd shape, against what the kernel chooses itself.

TRITON_INTERPRET=1 python -m tests.bench.interpreted_candidates    # a line of JSON each
"""

from __future__ import annotations

import json
from importlib import import_module

import torch

from dgbatch.bench.kernels.candidates import SWEEPS, Changes, Sweep
from dgbatch.bench.kernels.cases import TINY, cases, ragged
from dgbatch.bench.kernels.likeness import Results, kept, likeness
from dgbatch.bench.kernels.replaced import replaced


def results(sweep: Sweep, changes: Changes) -> Results:
    case, company = next(case for case in cases(TINY) if case.name == sweep.case), ragged(TINY)
    arguments = case.arguments(company, torch.float32)
    module = import_module(f"dgbatch.engine.kernels.{sweep.operation}")
    with replaced(sweep.operation, changes):
        return kept(case.results(company, arguments, getattr(module, sweep.operation)(*arguments)))


def main() -> None:
    tried: list[tuple[str, Changes]] = []
    for sweep in SWEEPS:
        now = results(sweep, {})
        for changes in (*sweep.one[1:], *sweep.many[1:]):
            who = sweep.case if sweep.operation == "attend" else sweep.operation
            if (who, changes) not in tried:  # of linear one shape, and of two sizes what differs
                tried.append((who, changes))
                same, largest = likeness(results(sweep, changes), now)
                print(
                    json.dumps({"case": sweep.case, "changes": changes, "same": same, "largest": largest}), flush=True
                )


if __name__ == "__main__":
    main()
