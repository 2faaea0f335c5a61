"""The engine runs where only its own packages are installed: no Ray, no pyarrow, no pydantic."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch>=2.11,<2.14", "safetensors>=0.5", "tokenizers>=0.21", "jinja2>=3.1", "huggingface_hub>=0.30")
COMPLETES = """
import sys
from dgbatch.engine import Engine
from dgbatch.records import EngineConfig, Prompt
engine = Engine.load("dgbatch/demo/checkpoint", EngineConfig(canvases=2, device="cpu", threads=1))
(one,) = engine.generate([Prompt("a", 0, ({"role": "user", "content": "sort\\nb a d c"},), noise_key=1)])
print(one.finish_reason, one.tokens > 0)
for name in ("ray", "pyarrow", "duckdb", "pydantic", "typer", "rich", "transformers", "numpy"):
    print(name, name in sys.modules)
"""


def test_the_engine_completes_a_prompt_with_its_five_packages_alone(tmp_path: Path) -> None:
    python = str(tmp_path / "bare" / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "bare"], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True, capture_output=True)
    done = subprocess.run([python, "-W", "ignore", "-c", COMPLETES], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    first, *others = done.stdout.splitlines()
    assert first.endswith(" True")
    installed = subprocess.run([python, "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout
    for package in ("ray", "pyarrow", "duckdb", "pydantic", "typer", "transformers"):
        assert f"{package} " not in installed
        assert f"{package} False" in others
