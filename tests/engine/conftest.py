"""A tiny checkpoint on disk, its tokenizer and its model, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.tokenizer import Tokenizer
from tests.engine import tiny


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """As the runner does on a CPU: small matrices are slower on more, and bits then depend on the machine's load."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: tests that damage a checkpoint copy it first."""
    return tiny.write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return Tokenizer.load(checkpoint)


@pytest.fixture(scope="session")
def model() -> Transformer:
    return tiny.tiny_model()
