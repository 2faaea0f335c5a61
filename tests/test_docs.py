"""What the documents say is what the code does."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["job.md", "cli.md", "metrics.md"])
def test_golden_reference_page_is_what_the_code_says(page: str, update_golden: bool) -> None:
    written = generator().PAGES[page]()
    if update_golden:
        (ROOT / "docs" / page).write_text(written, encoding="utf-8")
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == written, "run: just golden"


def where_things_are() -> list[tuple[str, str]]:
    """(file, symbol) of the table of docs/architecture.md."""
    rows = re.findall(
        r"^\| [^|]+\? \| `([\w/.]+\.py)` \| `([\w.]+)` \|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE
    )
    return [(file, symbol) for file, symbol in rows]


def test_table_of_where_things_are_has_rows() -> None:
    assert len(where_things_are()) >= 8


@pytest.mark.parametrize(("file", "symbol"), where_things_are())
def test_every_file_and_symbol_of_the_table_exists(file: str, symbol: str) -> None:
    names: set[str] = set()
    for node in ast.parse((ROOT / "dgbatch" / file).read_text()).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    assert symbol in names


def test_paths_that_documents_name_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_tests_that_documents_name_exist() -> None:
    """A promise beside the name of a test is worth what the test is."""
    files = (ROOT / "tests").rglob("test_*.py")
    known = {name for file in files for name in [file.stem, *re.findall(r"def (test_\w+)", file.read_text())]}
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"`(test_\w+)`", page.read_text())}
    assert len(named) > 20
    assert named - known == set()


def test_recipes_that_documents_name_exist() -> None:
    recipes = set(re.findall(r"^([a-z][a-z-]*)[^:=\n]*:(?!=)", (ROOT / "justfile").read_text(), re.MULTILINE))
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for recipe in re.findall(r"`just ([a-z-]+)", page.read_text()):
            assert recipe in recipes, f"{page.relative_to(ROOT)} names `just {recipe}`"


def test_every_code_of_a_quarantined_row_is_explained() -> None:
    raised = {
        node.args[0].value  # type: ignore[attr-defined]  # a code is written where it is raised
        for path in (ROOT / "dgbatch").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "RowError"
    }
    page = (ROOT / "docs" / "quarantine.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", page, re.MULTILINE)
    assert sorted(explained) == sorted(raised)
