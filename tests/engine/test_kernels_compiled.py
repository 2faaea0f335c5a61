"""Every kernel compiled for GPUs that are not here, at the shapes of the 26B model: what its machine code is made of.

That it compiles says nothing about whether it is right or fast. tests/engine/aot.py says how it is compiled as the
launcher would; tests/golden/kernels-sm90.txt and -sm100.txt show all programs. Registers change with Triton's version,
so the tables are compared where it is the one they were made with; the bounds hold with every version.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed: pip install 'dgbatch[kernels]'")

from dgbatch.bench.kernels.candidates import DOES_NOT_FIT, SPILLS, SWEEPS, marked  # noqa: E402
from dgbatch.engine.kernels import operations  # noqa: E402

pytestmark = pytest.mark.timeout(900)  # a few dozen compiles on a busy machine

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
ARCHITECTURES = (90, 100)
SHARED_LIMIT = 227 * 1024  # bytes that one program may have on Hopper and on data-centre Blackwell

Program = dict[str, Any]


def started(*arguments: str) -> subprocess.Popen[str]:
    """In a process without the interpreter. pytest-cov is not told of it: what runs there are the compiler's parts."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TRITON_", "COV"))}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.engine.aot", *arguments],
        cwd=ROOT,
        env=inherited,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(process: subprocess.Popen[str]) -> list[Program]:
    out, error = process.communicate()
    assert process.returncode == 0, error
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture(scope="module")
def compiled() -> Iterator[dict[int, list[Program]]]:
    """All programs by architecture, one process each."""
    processes = {architecture: started(str(architecture)) for architecture in ARCHITECTURES}
    try:
        yield {architecture: told(process) for architecture, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()


@pytest.fixture(params=ARCHITECTURES, ids=lambda architecture: f"sm_{architecture}")
def architecture(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def programs(compiled: dict[int, list[Program]], architecture: int) -> list[Program]:
    return compiled[architecture]


def named(programs: list[Program]) -> list[str]:
    return [f"{one['kernel']} for {', '.join(one['users'])}" for one in programs]


def test_every_operation_is_compiled(programs: list[Program]) -> None:
    used = {user.split()[0] for one in programs for user in one["users"]}
    assert used == {name for name, value in vars(operations).items() if hasattr(value, "__wrapped__")}


def test_no_program_spills_registers_into_memory(programs: list[Program]) -> None:
    assert named([one for one in programs if one["spills"]]) == []


def test_the_shared_memory_of_every_program_fits(programs: list[Program]) -> None:
    assert named([one for one in programs if one["shared"] > SHARED_LIMIT]) == []


def test_products_run_on_the_tensor_instructions_of_the_architecture(programs: list[Program]) -> None:
    """wgmma on Hopper, tcgen05 on data-centre Blackwell; none of the kind before."""
    assert named([one for one in programs if one["dots"] and (one["older"] or not one["products"])]) == []


def test_weights_and_rows_of_products_come_in_pieces_of_16_bytes(programs: list[Program]) -> None:
    """A pointer or a stride that is not known to be a multiple of 16 makes sixteen loads of one."""
    slow = [one for one in programs if one["dots"] and not wide_loads(one)]
    assert named(slow) == []


def wide_loads(one: Program) -> int:
    loads = one["loads"]
    return loads["cp.async 16"] + loads["TMA"] + loads["ld 16"]


def test_programs_are_those_of_the_golden_table(
    programs: list[Program], architecture: int, update_golden: bool
) -> None:
    golden = GOLDEN / f"kernels-sm{architecture}.txt"
    table = "\n".join(lines(programs, architecture)) + "\n"
    if update_golden:
        golden.write_text(table)
    expected = golden.read_text()
    if expected.split(",")[0] != f"triton {triton.__version__}":
        pytest.skip(f"{golden.name} was made with {expected.split(',')[0]}; here is {triton.__version__}")
    assert table == expected


COLUMNS = ("kernel", "case", "tiles", "warps", "stages", "registers", "shared", "programs/SM", "tensor", "16 B loads")


def lines(programs: list[Program], architecture: int) -> Iterator[str]:
    yield f"triton {triton.__version__}, sm_{architecture}, bfloat16, shapes of the 26B model"
    yield "shared: bytes; tensor: tensor-core instructions; 16 B loads: cp.async + TMA + ld of global memory"
    rows = [COLUMNS]
    for one in programs:
        loads = one["loads"]
        numbers = (one["warps"], one["stages"], one["registers"], one["shared"], one["programs"], one["products"])
        wide = f"{loads['cp.async 16']} + {loads['TMA']} + {loads['ld 16']}"
        for case, tiles in one["users"].items():
            which = ",".join(map(str, tiles))
            rows.append((one["kernel"], case, which, *map(str, numbers), wide))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if at < 3 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


@pytest.mark.slow
def test_programs_of_odd_sizes_and_of_float32_fit_too() -> None:
    """Those that tests on a GPU run."""
    programs = told(started("90", "--odd"))
    assert {name.rsplit(" ", 1)[1] for one in programs for name in one["users"]} == {"bfloat16", "float32"}
    assert named([one for one in programs if one["shared"] > SHARED_LIMIT]) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_block_sizes_that_a_sweep_tries_are_marked_where_they_spill_or_do_not_fit() -> None:
    found = told(started("90", "--candidates"))
    assert len(found) > 100
    by_case = {sweep.case: sweep for sweep in SWEEPS}
    wrongly = [one for one in found if marked(by_case[one["case"]], one["changes"]) != verdict(one)]
    assert wrongly == []


def verdict(one: Program) -> str | None:
    return DOES_NOT_FIT if one["shared"] > SHARED_LIMIT else SPILLS if one["spills"] else None


@pytest.fixture(scope="module")
def defects() -> dict[str, Program]:
    return {next(iter(one["users"])): one for one in told(started("90", "--defects"))}


def test_a_kernel_that_spills_is_seen(defects: dict[str, Program]) -> None:
    """Attention with heads of 512: its sums do not fit the registers of four warps, and do those of eight."""
    assert defects["four warps"]["spills"] > 100
    assert defects["eight warps"]["spills"] == 0
    assert defects["eight warps"]["products"] > 0
    assert defects["eight warps"]["programs"] == 1


def test_a_stride_or_an_address_that_is_no_multiple_of_16_is_seen(defects: dict[str, Program]) -> None:
    aligned, stride, address = (defects[name] for name in ("aligned", "a stride of 500", "an address of 8"))
    assert (aligned["unaligned"], stride["unaligned"], address["unaligned"]) == ([], ["stride", "inner"], ["a"])
    assert wide_loads(aligned) > wide_loads(address) > wide_loads(stride) == 0
