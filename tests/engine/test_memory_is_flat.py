"""Ten thousand rows leave an engine as they found it."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.records import Prompt
from tests.engine import tiny

pytestmark = pytest.mark.slow

ROWS, SETTLED = 10_000, 2_000


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for the memory of this process")
def test_memory_is_flat_over_ten_thousand_rows_and_every_page_comes_back(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    engine = tiny.make_engine(tokenizer, model, canvases=8, threads=1)
    at: dict[int, int] = {}

    def prompts() -> Iterator[Prompt]:
        for number in range(ROWS):
            if number in (SETTLED, ROWS - 1):
                at[number] = resident_bytes()
            yield tiny.prompt(number, f"{number} abc"[: 3 + number % 5], max_denoising_steps=2)

    done = sum(1 for _ in engine.generate(prompts()))
    assert done == ROWS
    assert at[ROWS - 1] - at[SETTLED] < 8 * 2**20  # allocators keep a little; a leak of 1 kB a row would be 8 MB
    cached = len(engine.pages._nodes)
    assert engine.pages.full.reserved == engine.pages.sliding.reserved == 0
    assert engine.pages.full.free + cached == engine.pages.full.size
