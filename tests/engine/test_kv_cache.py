"""Who sees whom: the causal window, the canvas's rectangle, and what is kept."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgbatch.engine.kv_cache import KVCache, attend_canvases
from dgbatch.engine.model.config import ModelConfig
from tests.engine import tiny

CONFIG = ModelConfig.from_dict(tiny.config_dict(sliding_window=5))
SLIDING, FULL = 0, 1


def filled(*pieces: int, seed: int = 0) -> KVCache:
    """A cache after encoding pieces of these lengths."""
    cache = KVCache(CONFIG, 64, torch.device("cpu"), torch.float32)
    for piece in pieces:
        for layer in (SLIDING, FULL):
            cache.attend_causal()(layer, *rows(layer, piece, seed + cache.length))
        cache.length += piece
    return cache


def rows(layer: int, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    kind, generator = CONFIG.layers[layer], torch.Generator().manual_seed(seed)
    heads = (CONFIG.heads, kind.kv_heads, kind.kv_heads)
    return tuple(torch.randn(count, size, kind.head_dim, generator=generator) for size in heads)  # type: ignore[return-value]


def seen_by(out: Tensor, values: int) -> list[list[int]]:
    """Which keys had weight, read off an output whose value vectors are the identity."""
    return [[key for key in range(values) if row[key] > 0] for row in out]


def identity_values(count: int, size: int) -> Tensor:
    return torch.eye(count, size)[:, None, :]


def test_a_full_layer_keeps_every_token_and_a_sliding_one_shows_the_last_window_less_one() -> None:
    cache = filled(9)
    assert cache.prefix(FULL)[0].shape == (9, 1, 16)
    assert cache.prefix(SLIDING)[0].shape == (4, 2, 8)
    assert torch.equal(cache.prefix(SLIDING)[0], cache.k[SLIDING][5:9])
    assert torch.equal(cache.prefix(SLIDING)[1], cache.v[SLIDING][5:9])


def test_a_prompt_shorter_than_the_window_is_seen_whole() -> None:
    assert filled(3).prefix(SLIDING)[0].shape[0] == 3
    assert filled(4).prefix(SLIDING)[0].shape[0] == 4
    assert filled().prefix(SLIDING)[0].shape[0] == 0


@pytest.mark.parametrize(("past", "count"), [(0, 7), (3, 4), (6, 3), (6, 1)])
def test_a_causal_row_sees_itself_and_what_came_before_it_on_sliding_layers_within_the_window(
    past: int, count: int
) -> None:
    config = ModelConfig.from_dict(
        tiny.config_dict(
            sliding_window=5, head_dim=16, num_key_value_heads=1, num_attention_heads=1, per_layer_config={}
        )
    )
    cache = KVCache(config, 16, torch.device("cpu"), torch.float32)
    for layer in (SLIDING, FULL):
        cache.k[layer][:past] = 0
        cache.v[layer][:past] = identity_values(past, 16)
    cache.length = past
    k, v = torch.zeros(count, 1, 16), torch.zeros(count, 1, 16)
    v[:, 0, :] = torch.eye(16)[past : past + count]
    for layer, window in ((SLIDING, 5), (FULL, 1000)):
        out = cache.attend_causal()(layer, torch.zeros(count, 1, 16), k, v)
        expected = [list(range(max(0, row - window + 1), row + 1)) for row in range(past, past + count)]
        assert seen_by(out[:, 0], 16) == expected


def test_every_row_of_a_canvas_sees_the_same_rectangle_and_the_whole_canvas() -> None:
    config = ModelConfig.from_dict(
        tiny.config_dict(
            sliding_window=4, head_dim=16, num_key_value_heads=1, num_attention_heads=1, per_layer_config={}
        )
    )
    cache = KVCache(config, 16, torch.device("cpu"), torch.float32)
    for layer in (SLIDING, FULL):
        cache.k[layer].zero_()
        cache.v[layer][:6] = identity_values(6, 16)
    cache.length = 6
    v = torch.eye(16)[6:11][None, :, None, :]
    for layer, first in ((SLIDING, 3), (FULL, 0)):
        out = attend_canvases([cache])(layer, torch.zeros(1, 5, 1, 16), torch.zeros(1, 5, 1, 16), v)
        assert seen_by(out[0, :, 0], 16) == [list(range(first, 11))] * 5


def test_canvases_see_their_own_prefix_and_never_each_others() -> None:
    caches = [filled(length, seed=100 * length) for length in (0, 3, 9)]
    for layer in (SLIDING, FULL):
        q, k, v = (torch.stack(part) for part in zip(*(rows(layer, 6, seed) for seed in (1, 2, 3)), strict=True))
        together = attend_canvases(caches)(layer, q, k, v)
        for index, cache in enumerate(caches):
            alone = attend_canvases([cache])(layer, *(part[index : index + 1] for part in (q, k, v)))
            assert torch.equal(together[index], alone[0])


def test_a_canvas_leaves_the_cache_as_it_was() -> None:
    cache = filled(7)
    before = [tensor.clone() for tensor in (*cache.k, *cache.v)]
    attend_canvases([cache])(FULL, *(part[None] for part in rows(FULL, 5, 1)))
    assert cache.length == 7
    for old, new in zip(before, (*cache.k, *cache.v), strict=True):
        assert torch.equal(old[:7], new[:7])


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_a_text_encoded_in_pieces_equals_the_text_encoded_at_once(cuts: list[int]) -> None:
    """What a settled canvas relies on: rows after a cache see what they would have seen in one pass."""
    total = sum(cuts)
    for layer in (SLIDING, FULL):
        q, k, v = rows(layer, total, 5)
        whole = KVCache(CONFIG, total, torch.device("cpu"), torch.float32)
        expected = whole.attend_causal()(layer, q, k, v)
        pieces = KVCache(CONFIG, total, torch.device("cpu"), torch.float32)
        done = []
        for cut in cuts:
            part = slice(pieces.length, pieces.length + cut)
            done.append(pieces.attend_causal()(layer, q[part], k[part], v[part]))
            pieces.length += cut
        torch.testing.assert_close(torch.cat(done), expected, atol=1e-5, rtol=0)
        assert torch.equal(pieces.k[layer], whole.k[layer])
        assert torch.equal(pieces.v[layer], whole.v[layer])
