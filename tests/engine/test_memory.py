"""How many pages there are: enough for every canvas in flight at its longest, or what the memory allows."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.engine.kv_cache import KVCache, page_bytes
from dgbatch.engine.memory import count_pages, default_budget, device_step_bytes, holds_all, peak_bytes
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


def test_a_device_step_has_room_for_two_of_it_beside_its_slots() -> None:
    """The first step of a tile count runs beside the memory that the graphs of other counts keep."""
    slots = 2 * 64 * CONFIG.hidden + CONFIG.vocab_size + sum(page_bytes(CONFIG, torch.bfloat16))
    exponentials = 2 * 64 * CONFIG.vocab_size  # of one canvas, whose 8 rows are padded to 64
    rows = 6 * 64  # 4 tiles of prompts, the canvas and its text
    heads = 16 * (4 + 2)  # of the full layer: its projection is the wider one
    experts = 2 * (CONFIG.moe_intermediate + CONFIG.hidden)
    step = exponentials + 2 * rows * (9 * CONFIG.hidden + 4 * heads + CONFIG.intermediate + experts)
    assert device_step_bytes(CONFIG, torch.bfloat16, canvases=1, prefill_tiles=4) == 2 * step + slots


def test_the_peak_of_a_process_is_in_bytes_and_never_falls() -> None:
    before = peak_bytes(CPU)
    assert before > 0
    held = torch.ones(2**26, dtype=torch.uint8)
    peak = peak_bytes(CPU)
    assert peak >= max(before, held.nbytes)
    del held
    assert peak_bytes(CPU) >= peak
