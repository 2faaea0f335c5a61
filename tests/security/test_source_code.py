"""Nothing in dgbatch turns data into code: no pickle, no torch.load but of weights alone, no eval."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import dgbatch

ROOT = Path(dgbatch.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "numpy.load", "np.load",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load",
}  # fmt: skip


def dangers(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            if ast.unparse(node.func) in CALLS and not _only_weights(node):
                found.append(ast.unparse(node.func))
            for keyword in node.keywords:
                if (keyword.arg in ("shell", "trust_remote_code", "allow_pickle")) and not _is_false(keyword.value):
                    found.append(str(keyword.arg))
    return found


def _only_weights(call: ast.Call) -> bool:
    """torch.load that refuses all but tensors and plain values: the trainer's own state.pt."""
    return any(keyword.arg == "weights_only" and ast.unparse(keyword.value) == "True" for keyword in call.keywords)


def _is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_file_turns_no_data_into_code(path):
    assert dangers(path.read_text(encoding="utf-8")) == []


def test_each_danger_is_seen():
    source = "import pickle\nfrom marshal import loads\ntorch.load(f)\nyaml.load(f)\neval(x)\nrun(x, shell=True)"
    assert sorted(dangers(source)) == ["eval", "marshal", "pickle", "shell", "torch.load", "yaml.load"]


PAGES = {"page.py", "diff_page.py"}  # whose templates are files of ours


def test_templates_are_rendered_in_sandboxes_alone():
    made = [
        (path.name, ast.unparse(node.func))
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("Environment", "Template"))
    ]
    assert {name for name, call in made if "Sandboxed" not in call} == {"prompts.py"} | PAGES
    assert {call for name, call in made if name == "prompts.py"} == {"BoundedEnvironment", "_Template"}


def test_templates_of_pages_are_files_of_ours_and_escape_what_they_print():
    for name in PAGES:
        (source,) = (path.read_text(encoding="utf-8") for path in FILES if path.name == name)
        (call,) = (
            node
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "jinja2.Environment"
        )
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert (given["loader"], given["autoescape"]) == ("jinja2.FileSystemLoader(HERE)", "True")
        assert "from_string" not in source
