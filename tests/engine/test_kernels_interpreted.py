"""Every kernel in Triton's interpreter, in processes of its own: tests/engine/kernels, reported file by file.

TRITON_INTERPRET decides when a kernel is decorated, and what is decorated so cannot be compiled any more. Beside it,
what the package of kernels promises its callers, whatever runs.
"""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from dgbatch.engine import kernels
from dgbatch.engine.kernels import operations

ROOT = Path(__file__).parents[2]
TESTS = Path(__file__).parent / "kernels"
FILES = sorted(TESTS.glob("test_*.py"))
KERNELS = Path(kernels.__file__).parent
OPERATIONS: dict[str, Callable[..., Any]] = {
    name: value for name, value in vars(operations).items() if hasattr(value, "__wrapped__")
}

Case = ElementTree.Element


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Case]]:
    """The tests of tests/engine/kernels by file, after two processes with TRITON_INTERPRET=1 ran half of them each."""
    pytest.importorskip("triton", reason="triton is not installed: pip install 'dgbatch[kernels]'")
    folder = tmp_path_factory.mktemp("interpreted")
    parts = [(FILES[begin::2], folder / f"{begin}.xml") for begin in range(2)]
    processes = [started(files, report) for files, report in parts]
    cases: dict[str, list[Case]] = {}
    for process, (_, report) in zip(processes, parts, strict=True):
        said, _ = process.communicate()
        assert report.exists(), said
        for case in ElementTree.parse(report).iter("testcase"):
            # a module that cannot be imported is a case whose name is the module
            dotted = case.get("classname") or case.get("name") or ""
            cases.setdefault(dotted.split(".")[-1], []).append(case)
        assert process.returncode in (0, 1), said
    return cases


def started(files: list[Path], report: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pytest", *map(str, files), "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    # Nobody counts lines there: it would take three times as long. test_step_launches.py runs every wrapper.
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.timeout(900)  # a hundred programs of numpy on a busy machine
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_kernels_in_the_interpreter(interpreted: dict[str, list[Case]], file: Path) -> None:
    cases = interpreted.get(file.stem, [])
    assert cases, f"{file.name} has no test"
    skipped = [case.get("name") for case in cases if case.find("skipped") is not None]
    assert skipped == []
    broken = [case.find(kind) for case in cases for kind in ("failure", "error")]
    told = [f"{one.get('message')}\n{one.text}" for one in broken if one is not None]
    assert not told, "\n\n".join(told)


def test_every_kernel_has_tests_in_the_interpreter() -> None:
    """A file for each module, or one that names it where two or three kernels share their tests."""
    sources = {file.name: file.read_text() for file in FILES}
    untested = [name for name in OPERATIONS if not any(f"kernels.{name} import" in text for text in sources.values())]
    assert untested == []


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_has_a_kernel_and_a_twin_with_the_same_name_and_signature(name: str) -> None:
    """Read from the kernel's source: triton need not be there."""
    twin = OPERATIONS[name].__wrapped__  # type: ignore[attr-defined]
    assert twin.__name__ == name
    tree = ast.parse((KERNELS / f"{name}.py").read_text())
    (kernel,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    expected = inspect.signature(twin)
    own = kernel.args
    assert [argument.arg for argument in own.args] == list(expected.parameters)
    assert not (own.vararg or own.kwonlyargs or own.kwarg or own.posonlyargs)
    annotations = [ast.unparse(argument.annotation) for argument in own.args if argument.annotation]
    assert annotations == [parameter.annotation for parameter in expected.parameters.values()]
    defaults = [
        parameter.default for parameter in expected.parameters.values() if parameter.default is not inspect._empty
    ]
    assert [ast.literal_eval(default) for default in own.defaults] == defaults
    assert kernel.returns
    assert ast.unparse(kernel.returns) == expected.return_annotation


def test_no_module_has_the_name_of_something_that_the_package_exports() -> None:
    """Importing the module would put it where the function was."""
    assert {path.stem for path in KERNELS.glob("*.py")} & set(kernels.__all__) == set()


def test_the_engine_and_its_operations_run_without_triton() -> None:
    """A laptop without a GPU need not have it."""
    modules = ["dgbatch.engine", "dgbatch.engine.kernels.operations", "dgbatch.engine.kernels.launch"]
    modules += [f"dgbatch.engine.kernels.reference.{path.stem}" for path in (KERNELS / "reference").glob("[!_]*.py")]
    code = f"import sys; sys.modules['triton'] = None; import {', '.join(modules)}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_an_operation_on_another_device_goes_to_the_kernel_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setitem(sys.modules, "dgbatch.engine.kernels.linear", Module(linear=lambda *args: calls.append(args)))

    class OnGpu:
        device = type("Device", (), {"type": "cuda"})

    x = OnGpu()
    import_module("dgbatch.engine.kernels.operations").linear(x, 1, 2)
    assert calls == [(x, 1, 2)]


class Module:
    """What import_module finds."""

    def __init__(self, **names: Callable[..., Any]):
        self.__dict__.update(names)
