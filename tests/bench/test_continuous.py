from __future__ import annotations

import pytest

from dgbatch.bench.continuous import with_canvases
from dgbatch.engine import Engine
from dgbatch.records import EngineConfig


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load("demo", EngineConfig(canvases=1, threads=1, share_prefixes=False))


def test_engines_share_their_weights_and_nothing_else(engine):
    other = with_canvases(engine, 3)
    assert other.model is engine.model
    assert other.config.canvases == 3
    assert engine.config.canvases == 1
    assert other.stats is not engine.stats
