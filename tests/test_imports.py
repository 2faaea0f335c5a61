"""The arrows of docs/architecture.md: who may import whom, and the one home of each package."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "dgbatch"
ENGINE_PACKAGES = {"torch", "triton", "safetensors", "tokenizers", "jinja2", "huggingface_hub"}

# module prefix (the longest that fits counts) -> what it may import from outside the standard library
ALLOWED: dict[str, set[str]] = {
    "dgbatch": {"dgbatch"},
    "dgbatch.records": set(),
    "dgbatch.errors": set(),
    "dgbatch.engine": ENGINE_PACKAGES | {"dgbatch.engine", "dgbatch.records", "dgbatch.errors"},
    "dgbatch.engine.kernels": {"torch", "triton", "dgbatch.engine.kernels"},
    "dgbatch.engine.device_step": {"torch", "dgbatch.engine", "dgbatch.records"},
    "dgbatch.engine.device_step.tile_count": {"dgbatch.engine.kernels.tables"},
    "dgbatch.engine.device_step.grants": {
        "dgbatch.engine.device_step.tile_count", "dgbatch.engine.pages", "dgbatch.engine.scheduler",
        "dgbatch.engine.sequence",
    },
    "dgbatch.engine.model": {"torch", "dgbatch.engine.kernels", "dgbatch.engine.model", "dgbatch.records"},
    "dgbatch.engine.pages": set(),
    "dgbatch.engine.scheduler": {"dgbatch.engine.pages", "dgbatch.engine.sequence", "dgbatch.records"},
    "dgbatch.engine.sequence": {"dgbatch.engine.pages", "dgbatch.records"},
    "dgbatch.engine.checkpoint": {"huggingface_hub", "dgbatch.errors"},
    "dgbatch.engine.tokenizer": {
        "tokenizers", "jinja2", "dgbatch.engine.checkpoint", "dgbatch.records", "dgbatch.errors",
    },
    "dgbatch.runner": {
        "pyarrow", "jinja2", "yaml", "rich", "dgbatch.runner", "dgbatch.records", "dgbatch.errors", "dgbatch.roofline",
    },
    "dgbatch.runner.storage.store": {"obstore", "dgbatch.errors", "dgbatch.runner"},
    "dgbatch.runner.storage.store_connection": {"obstore", "botocore", "dgbatch.errors", "dgbatch.runner"},
    "dgbatch.runner.dispatch": {"dgbatch.runner.piece", "dgbatch.runner.poison"},
    "dgbatch.runner.piece": set(),
    "dgbatch.runner.poison": set(),
    "dgbatch.runner.actors": {"ray", "dgbatch.records", "dgbatch.runner"},
    "dgbatch.runner.ray_session": {"ray", "dgbatch.errors"},
    "dgbatch.runner.drain": {"ray"},
    "dgbatch.runner.block": {"pydantic"},
    "dgbatch.runner.blocks": {"pydantic", "dgbatch.runner.block"},
    "dgbatch.runner.metrics": {"prometheus_client", "dgbatch.records", "dgbatch.runner"},
    "dgbatch.runner.generation": {"pydantic", "pyarrow", "dgbatch.errors", "dgbatch.records", "dgbatch.runner"},
    "dgbatch.runner.spec": {"pydantic", "yaml", "dgbatch.errors", "dgbatch.runner"},
    "dgbatch.runner.catalog": {"duckdb", "pyarrow", "dgbatch.runner", "dgbatch.errors"},
    "dgbatch.runner.export": {"duckdb", "pyarrow", "dgbatch.runner", "dgbatch.errors"},
    "dgbatch.runner.pages.row_difference": {"duckdb", "pyarrow", "dgbatch.runner", "dgbatch.errors"},
    "dgbatch.runner.condition": {"duckdb", "pyarrow", "dgbatch.runner", "dgbatch.errors"},
    "dgbatch.runner.pages.parts": {"duckdb", "dgbatch.runner"},
    "dgbatch.runner.pages.plots": {"plotly", "dgbatch.runner"},
    "dgbatch.runner.worker": {"pyarrow", "dgbatch.engine", "dgbatch.runner", "dgbatch.records", "dgbatch.errors"},
    "dgbatch.runner.model": {
        "dgbatch.engine.checkpoint", "dgbatch.engine.weights", "dgbatch.engine.tokenizer", "dgbatch.errors",
        "dgbatch.runner",
    },
    "dgbatch.runner.preview": {"dgbatch.engine.tokenizer", "dgbatch.engine.checkpoint", "dgbatch.runner",
                               "dgbatch.records", "dgbatch.errors"},
    "dgbatch.cli": {"typer", "rich", "click", "dgbatch", "pyarrow"},
    "dgbatch.roofline": set(),
    "dgbatch.bench": {"torch", "transformers", "matplotlib", "pyarrow", "dgbatch"},
    "dgbatch.bench.kernels.replaced": {"triton", "dgbatch.bench"},  # it watches what Triton launches
    "dgbatch.bench.ray_data": {"ray", "pyarrow", "dgbatch.bench", "dgbatch.runner"},
    "dgbatch.demo": {"torch", "numpy", "tokenizers", "pyarrow", "reasoning_gym", "dgbatch"},
}  # fmt: skip
# what a prefix never imports, whatever its packages allow
FORBIDDEN: dict[str, set[str]] = {
    "dgbatch.cli": {"dgbatch.engine", "dgbatch.demo", "torch"},
    "dgbatch.runner": {"torch", "triton", "dgbatch.cli", "dgbatch.demo", "dgbatch.bench"},
    "dgbatch.runner.worker": {"ray", "duckdb", "prometheus_client", "dgbatch.runner.driver"},
    "dgbatch.engine": {"dgbatch.runner", "dgbatch.cli", "dgbatch.bench", "dgbatch.demo", "dgbatch.roofline"},
    "dgbatch.demo": {"dgbatch.bench", "dgbatch.cli"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports at run time, inside functions too; not what only type checkers see."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrow"
            assert node.module is not None
            if node.module == "dgbatch" or (ROOT.parent / node.module.replace(".", "/")).is_dir():
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def longest(table: dict[str, set[str]], module: str) -> set[str]:
    return table[max((prefix for prefix in table if under(module, prefix)), key=len)]


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[module_name(path) for path in FILES])
def test_module_imports_only_what_the_architecture_allows(path: Path) -> None:
    module = module_name(path)
    allowed = longest(ALLOWED, module)
    banned = set().union(*(names for prefix, names in FORBIDDEN.items() if under(module, prefix)))
    for name in imports(path):
        if name.split(".")[0] in sys.stdlib_module_names:
            continue
        assert any(under(name, prefix) for prefix in allowed), (
            f"{module} may not import {name}: see docs/architecture.md"
        )
        assert not any(under(name, prefix) for prefix in banned), f"{module} must never import {name}"


def test_an_import_of_a_forbidden_module_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("def f():\n    import ray.util\n    from dgbatch.engine import model\n")
    assert list(imports(path)) == ["ray.util", "dgbatch.engine.model"]
    assert not any(under("ray.util", prefix) for prefix in longest(ALLOWED, "dgbatch.runner.worker"))
