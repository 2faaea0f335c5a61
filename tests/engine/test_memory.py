"""How many pages there are: enough for every canvas in flight at its longest, or what the memory allows."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.engine import kernels
from dgbatch.engine.kv_cache import KVCache, page_bytes
from dgbatch.engine.memory import PARTS, count_pages, default_budget, device_step_bytes, holds_all, peak_bytes
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.pages import Pages
from tests.engine import tiny

CPU = torch.device("cpu")
CONFIG = ModelConfig.from_dict(tiny.config_dict())
PLENTY = 2**40  # bytes
THREE_LAYERS = ModelConfig.from_dict(
    tiny.config_dict(
        num_hidden_layers=3,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        per_layer_config={"1": {"head_dim": 16, "num_key_value_heads": 1}},
    )
)


def test_a_page_takes_keys_and_values_of_one_canvas_length_in_all_layers_of_its_kind() -> None:
    full = 8 * 2 * 1 * 16  # tokens, keys and values, heads, head size
    sliding = 8 * 2 * 2 * 8
    assert page_bytes(CONFIG, torch.float32) == (4 * full, 4 * sliding) == (1024, 1024)
    assert page_bytes(THREE_LAYERS, torch.float32) == (1024, 2048)
    assert page_bytes(THREE_LAYERS, torch.bfloat16) == (512, 1024)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_pools_take_as_many_bytes_as_their_pages_say(dtype: torch.dtype) -> None:
    of_full, of_sliding = page_bytes(THREE_LAYERS, dtype)
    cache = KVCache(THREE_LAYERS, 5, 3, CPU, dtype)
    assert sum(pool.nbytes for pool in cache.pools) == 5 * of_full + 3 * of_sliding


def test_with_memory_enough_there_are_pages_for_every_canvas_and_once_more_for_shared_prefixes() -> None:
    # 96 positions are 12 chunks of 8, and one as a prompt may end inside a chunk; a window of 11 lies in 2 pages,
    # 2 more are cut, and 4 are of the pass
    assert count_pages(CONFIG, torch.float32, canvases=2, prefill_tiles=4, budget=PLENTY) == (3 * 13, 3 * 8)


@given(canvases=st.integers(1, 5), prefill_tiles=st.integers(1, 6), prompt_tokens=st.integers(1, 88))
def test_with_memory_enough_all_canvases_are_in_flight_whatever_their_prompts_and_limits(
    canvases: int, prefill_tiles: int, prompt_tokens: int
) -> None:
    counts = count_pages(CONFIG, torch.float32, canvases, prefill_tiles, PLENTY)
    pages = Pages(*counts, tiny.CANVAS, CONFIG.sliding_window - 1)
    most = (CONFIG.max_positions - prompt_tokens) // tiny.CANVAS  # canvases after this prompt
    need = pages.need(-(-prompt_tokens // tiny.CANVAS) + most - 1, prefill_tiles)
    assert all(pages.lease(need) for _ in range(canvases))


def test_both_pools_shrink_alike_when_memory_is_short() -> None:
    wanted = 39 * 1024 + 24 * 1024  # bytes of 2 canvases and one more
    assert count_pages(CONFIG, torch.float32, 2, 4, wanted) == (39, 24)
    assert count_pages(CONFIG, torch.float32, 2, 4, wanted // 2) == (19, 12)
    assert count_pages(CONFIG, torch.float32, 2, 4, wanted // 3) == (13, 8)
    assert count_pages(CONFIG, torch.bfloat16, 2, 4, wanted // 2) == (39, 24)


def test_a_budget_holds_all_from_the_byte_on_that_nothing_has_to_shrink() -> None:
    wanted = 39 * 1024 + 24 * 1024
    assert holds_all(CONFIG, torch.float32, 2, 4, wanted)
    assert not holds_all(CONFIG, torch.float32, 2, 4, wanted - 1)
    assert not holds_all(CONFIG, torch.float32, 3, 4, wanted)


@given(canvases=st.integers(1, 64), budget=st.integers(0, 2**22))
def test_pages_never_take_more_than_the_budget_but_for_one_of_each(canvases: int, budget: int) -> None:
    full, sliding = count_pages(THREE_LAYERS, torch.float32, canvases, 4, budget)
    of_full, of_sliding = page_bytes(THREE_LAYERS, torch.float32)
    assert full >= 1
    assert sliding >= 1
    assert full * of_full + sliding * of_sliding <= budget or sliding == 1


def test_without_any_memory_there_is_one_page_of_each() -> None:
    assert count_pages(CONFIG, torch.float32, 8, 4, budget=0) == (1, 1)


def test_a_cpu_gives_a_quarter_of_the_machines_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1_000_000}.__getitem__)
    assert default_budget(CONFIG, CPU, canvases=8) == 1_024_000_000


def test_a_gpu_gives_nine_tenths_of_what_is_free_beside_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_000_000, 9_000_000))
    logits = 4 * 2 * 8 * CONFIG.vocab_size  # bytes, canvases, positions, vocabulary
    assert default_budget(CONFIG, torch.device("cuda"), canvases=2) == int(0.9 * (1_000_000 - 6 * logits))
    assert default_budget(CONFIG, torch.device("cuda"), canvases=1000) == 0


def test_a_gpu_gives_nine_tenths_of_what_is_free_beside_what_its_step_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_000_000, 9_000_000))
    assert default_budget(CONFIG, torch.device("cuda"), canvases=2, held=400_000) == int(0.9 * 600_000)
    assert default_budget(CONFIG, torch.device("cuda"), canvases=2, held=2_000_000) == 0


def test_a_step_on_a_device_holds_one_number_a_token_of_the_vocabulary_and_no_float32() -> None:
    """Of a large vocabulary: the exponentials, five words a column tile of 128, a byte for whether it is allowed.

    The first two are there twice: a tile count's first step runs beside the memory that the graphs of others keep.
    """
    small, large = (replace(CONFIG, vocab_size=size) for size in (1280, 1_281_280))
    more = device_step_bytes(large, torch.bfloat16, 3, 4) - device_step_bytes(small, torch.bfloat16, 3, 4)
    assert more == 1_280_000 * 3 * (2 * 64 * (2 + 5 * 4 / 128) + 1)  # canvases, rows, bytes


def test_what_a_step_holds_grows_with_its_tiles_and_its_canvases() -> None:
    held = [device_step_bytes(CONFIG, torch.bfloat16, canvases, 4) for canvases in (1, 2, 8, 16)]
    assert held == sorted(held)
    assert device_step_bytes(CONFIG, torch.bfloat16, 8, 16) > held[2]
    assert device_step_bytes(CONFIG, torch.float32, 8, 4) > 1.4 * held[2]


def test_what_is_counted_of_parts_is_what_kernels_have() -> None:
    """Read from their sources: triton need not be there."""
    for name, parts in PARTS.items():
        source = (Path(kernels.__file__).parent / f"{name}.py").read_text()
        assert re.search(r"^SPLITS = (\d+)", source, re.MULTILINE)[1] == str(parts)  # type: ignore[index]


def test_pages_granted_ahead_keep_the_window_so_much_longer() -> None:
    """Two canvases: two pages more of the sliding pool, for each of two canvases and once more."""
    assert count_pages(CONFIG, torch.float32, 2, 4, PLENTY, ahead=2) == (3 * 13, 3 * 10)


def test_the_peak_of_a_process_is_in_bytes_and_never_falls() -> None:
    before = peak_bytes(CPU)
    assert before > 0
    held = torch.ones(2**26, dtype=torch.uint8)
    peak = peak_bytes(CPU)
    assert peak >= max(before, held.nbytes)
    del held
    assert peak_bytes(CPU) >= peak
