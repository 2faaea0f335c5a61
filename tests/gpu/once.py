"""Every operation once, by name: what a memory checker watches, and what is compiled in several processes at a time.

python -m tests.gpu.once real            # or crowd (many tiles), tiny (bfloat16), tiny32 (float32)
python -m tests.gpu.once real 1 4        # of every four cases the second
"""

from __future__ import annotations

import sys

import torch

from dgbatch.bench.kernels.cases import TINY, cases, ragged
from dgbatch.bench.kernels.seats import Company
from tests.gpu.machine import DEVICE, SHAPE, crowd, operation

COMPANIES = {
    "real": (SHAPE, Company.of(SHAPE, canvases=1, chunks=1, prefix=SHAPE.canvas + 5), torch.bfloat16),
    "crowd": (SHAPE, crowd(), torch.bfloat16),
    "tiny": (TINY, ragged(TINY), torch.bfloat16),
    "tiny32": (TINY, ragged(TINY), torch.float32),
}


def main(which: str, part: str = "0", parts: str = "1") -> None:
    shape, company, dtype = COMPANIES[which]
    for case in cases(shape)[int(part) :: int(parts)]:
        operation(case)(*case.arguments(company, dtype, DEVICE))
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        print("ran", case.name, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
