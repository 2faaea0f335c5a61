"""Our engine's step."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dgbatch.bench.random_26b.contender import Passes
from dgbatch.bench.random_26b.model import prefix_of
from dgbatch.engine import kernels
from dgbatch.engine.model.transformer import Transformer


class Dgbatch:
    name = "dgbatch"

    def __init__(self, model: Transformer):
        self.model = model

    def prepare(self, canvases: int, prefix: int) -> Passes:
        raise NotImplementedError("no device step yet")

    def release(self) -> None:
        pass
