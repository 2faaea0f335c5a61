"""The table of engine/kernels/README.md: every operation, where it is, what calls it, what holds it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from dgbatch.bench.kernels.case import ULP, Case
from dgbatch.bench.kernels.cases import REAL, cases
from dgbatch.bench.kernels.seats import Company
from dgbatch.engine import kernels
from dgbatch.engine.device_step import forward
from dgbatch.engine.kernels import operations
from dgbatch.roofline import DEVICES

KERNELS = Path(kernels.__file__).parent
README = (KERNELS / "README.md").read_text()
OPERATIONS = [name for name, value in vars(operations).items() if hasattr(value, "__wrapped__")]
ROWS = {cells[0].strip("`"): cells for cells in (
    [cell.strip() for cell in line.strip("|").split(" | ")] for line in README.splitlines() if line.startswith("| `")
) if cells[0].strip("| `") in OPERATIONS}  # fmt: skip


def of(name: str) -> list[Case]:
    """Its cases, but for those that are the same work in another order."""
    return [case for case in cases(REAL) if case.operation == name and case.name != "plan_tiles"]


def limit_us(case: Case) -> float:
    device, work = DEVICES[0], case.least(Company.of(REAL, canvases=1, prefix=1024), 2)
    return max(work.bytes / device.bytes_per_s, work.flops / device.flops_per_s["bf16"]) * 1e6


def test_the_table_names_every_operation() -> None:
    assert sorted(ROWS) == sorted(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_row_says_where_kernel_and_twin_are_and_what_limits_the_kernel(name: str) -> None:
    _, file, twin, _, tolerance, _, limit, _ = ROWS[name]
    assert file == f"[{name}.py]({name}.py)"
    assert getattr(operations, name).__wrapped__.__module__.endswith(f".reference.{twin.strip('`')}")
    assert (KERNELS / f"{name}.py").exists()
    assert {float(tolerance)} == {round(case.tolerance / ULP, 1) for case in of(name)}
    assert limit == ", ".join(f"{limit_us(case):.1f}" for case in of(name))


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_row_names_all_callers(name: str) -> None:
    (step,) = (
        node
        for node in ast.parse(Path(forward.__file__).read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "Step"
    )
    methods = [node for node in step.body if isinstance(node, ast.FunctionDef)]
    calling = {f"Step.{method.name}" for method in methods if re.search(rf"\bop\.{name}\(", ast.unparse(method))}
    assert set(re.findall(r"`([\w.]+)`", ROWS[name][5])) == calling


def test_paths_that_the_page_names_exist() -> None:
    for path in re.findall(r"`((?:tests|dgbatch)/[\w/.*-]+)`", README):
        assert list(KERNELS.parents[2].glob(path)), path
