"""Who sees whom: the causal window, the canvas's rectangle, and what is kept in which page."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgbatch.engine.kv_cache import KVCache, page_bytes
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.pages import Pages
from dgbatch.engine.scheduler import Scheduler, Tile
from dgbatch.engine.sequence import Sequence
from tests.engine import tiny

WINDOW = 5
CONFIG = ModelConfig.from_dict(tiny.config_dict(sliding_window=WINDOW))
# One head of 24: a value vector can name its position, and weights can be read off the output.
NAMING = ModelConfig.from_dict(
    tiny.config_dict(
        sliding_window=WINDOW, head_dim=24, num_key_value_heads=1, num_attention_heads=1, per_layer_config={}
    )
)
SLIDING, FULL = 0, 1
GAP = 3  # rows between two tiles that belong to nobody

Rows = tuple[Tensor, Tensor, Tensor]


class Texts:
    """Texts of given pieces on their way into poisoned pages; nobody has computed anything of them."""

    def __init__(self, *texts: list[int], config: ModelConfig = CONFIG, pieces_a_pass: int = 1):
        self.config = config
        self.pages = Pages(24, 24, tiny.CANVAS, WINDOW - 1)
        self.pages.sliding.take(1)  # so that a page of one pool is not by chance its number in the other
        self.scheduler = Scheduler(self.pages, len(texts), tiny.CANVAS, pieces_a_pass)
        self.kv = KVCache(config, 24, 24, torch.device("cpu"), torch.float32)
        for pool in self.kv.pools:
            pool.fill_(torch.nan)
        for number, pieces in enumerate(texts):
            chunks = deque((number, *range(size - 1)) for size in pieces)
            self.scheduler.waiting.append(
                Sequence(tiny.prompt(number), tiny.SETTINGS, [0] * sum(pieces), frozenset(), chunks)
            )
        self.sequences = self.scheduler.admit()
        assert len(self.sequences) == len(texts)

    def encode(self, given: dict[int, Rows]) -> list[list[Tensor]]:
        """All pieces, layer by layer. given: q, k, v by layer of every text, (texts, rows, heads, head_dim)

        returns: by layer, the output of every text
        """
        done: list[list[list[Tensor]]] = [[[] for _ in self.sequences] for _ in self.config.layers]
        while any(one.pending for one in self.sequences):
            tiles = [tile for tile in self.scheduler.plan() if tile.causal]
            for layer, rows in given.items():
                for tile, out in zip(tiles, self.attend(layer, tiles, rows), strict=True):
                    done[layer][self.sequences.index(tile.sequence)].append(out)
        return [[torch.cat(outs) for outs in layer if outs] for layer in done]

    def canvases(self) -> list[Tile]:
        return [tile for tile in self.scheduler.plan() if not tile.causal]

    def attend(self, layer: int, tiles: list[Tile], rows: Rows) -> list[Tensor]:
        """One layer of one pass, with garbage between the tiles; returns each tile's part."""
        places, total = [], GAP
        for tile in tiles:
            places.append((tile, total))
            total += tile.rows + GAP
        parts = []
        for whole in rows:
            part = torch.full((total, *whole.shape[2:]), torch.nan)
            for tile, first in places:
                text = whole[self.sequences.index(tile.sequence)]
                part[first : first + tile.rows] = text[tile.start : tile.start + tile.rows]
            parts.append(part)
        out = self.kv.attend(places)(layer, *parts)
        return [out[first : first + tile.rows] for tile, first in places]

    def kept(self, layer: int, text: int = 0) -> Tensor:
        lease = self.sequences[text].lease
        assert lease
        view = self.pages.views(lease)[self.config.layers[layer].sliding]
        return torch.cat(self.kv.read(layer, view), 2).permute(2, 0, 1, 3)


def rows(layer: int, count: int, seed: int = 0, texts: int = 1, config: ModelConfig = CONFIG) -> Rows:
    kind, generator = config.layers[layer], torch.Generator().manual_seed(10 * seed + layer)
    heads = (config.heads, kind.kv_heads, kind.kv_heads)
    return tuple(torch.randn(texts, count, size, kind.head_dim, generator=generator) for size in heads)  # type: ignore[return-value]


def both(count: int, seed: int = 0, texts: int = 1) -> dict[int, Rows]:
    return {layer: rows(layer, count, seed, texts) for layer in (SLIDING, FULL)}


def named(texts: int = 1) -> Rows:
    """Rows that look at all they may, with values that name their position."""
    nothing, identity = torch.zeros(texts, 24, 1, 24), torch.eye(24)[:, None, :].expand(texts, -1, -1, -1)
    return nothing, nothing, identity


def seen_by(out: Tensor) -> list[list[int]]:
    """Which positions had weight."""
    return [row.nonzero().flatten().tolist() for row in out[:, 0]]


@settings(max_examples=40)
@given(pieces=st.lists(st.integers(1, 8), min_size=1, max_size=7), pieces_a_pass=st.integers(1, 4))
def test_pages_read_back_what_was_written_and_a_sliding_layer_the_last_window_less_one(
    pieces: list[int], pieces_a_pass: int
) -> None:
    texts, total = Texts(pieces, pieces_a_pass=pieces_a_pass), sum(pieces)
    given = both(total)
    texts.encode(given)
    for layer, first in ((FULL, 0), (SLIDING, max(0, total - (WINDOW - 1)))):
        for ours, written in zip(texts.kept(layer).unbind(1), given[layer][1:], strict=True):
            assert torch.equal(ours, written[0, first:])


def test_texts_encoded_side_by_side_keep_their_own() -> None:
    texts = Texts([8, 3], [2], [8, 8, 1], pieces_a_pass=2)
    given = both(17, texts=3)
    texts.encode(given)
    for text, total in enumerate((11, 2, 17)):
        for layer, first in ((FULL, 0), (SLIDING, max(0, total - (WINDOW - 1)))):
            written = torch.stack([part[text, first:total] for part in given[layer][1:]], 1)
            assert torch.equal(texts.kept(layer, text), written)


@pytest.mark.parametrize("pieces", [[7], [8, 4], [3, 4, 2], [8, 8, 8], [1] * 9])
@pytest.mark.parametrize("pieces_a_pass", [1, 4])
def test_a_causal_row_sees_itself_and_what_came_before_it_on_sliding_layers_within_the_window(
    pieces: list[int], pieces_a_pass: int
) -> None:
    texts = Texts(pieces, config=NAMING, pieces_a_pass=pieces_a_pass)
    outs = texts.encode({SLIDING: named(), FULL: named()})
    for layer, window in ((SLIDING, WINDOW), (FULL, 1000)):
        expected = [list(range(max(0, row - window + 1), row + 1)) for row in range(sum(pieces))]
        assert seen_by(outs[layer][0]) == expected


@pytest.mark.parametrize("pieces", [[1], [4], [8, 3], [8, 8]])
def test_every_row_of_a_canvas_sees_the_same_rectangle_and_the_whole_canvas(pieces: list[int]) -> None:
    texts, total = Texts(pieces, config=NAMING), sum(pieces)
    texts.encode({SLIDING: named(), FULL: named()})
    for layer, first in ((SLIDING, max(0, total - (WINDOW - 1))), (FULL, 0)):
        (out,) = texts.attend(layer, texts.canvases(), named())
        assert seen_by(out) == [list(range(first, total + tiny.CANVAS))] * tiny.CANVAS


def test_a_canvas_sees_what_its_own_pass_encodes() -> None:
    texts = Texts([8, 5], config=NAMING, pieces_a_pass=2)
    tiles = texts.scheduler.plan()
    assert [tile.rows for tile in tiles] == [8, 5, tiny.CANVAS]
    for layer, first in ((SLIDING, 13 - (WINDOW - 1)), (FULL, 0)):
        assert seen_by(texts.attend(layer, tiles, named())[2]) == [list(range(first, 21))] * tiny.CANVAS


def test_canvases_see_their_own_prefix_and_never_each_others() -> None:
    texts = Texts([3], [8, 1], [8, 8])
    given = both(24, texts=3)
    texts.encode(given)
    tiles = texts.canvases()
    for layer in (SLIDING, FULL):
        together = texts.attend(layer, tiles, given[layer])
        for tile, out in zip(tiles, together, strict=True):
            assert torch.equal(out, texts.attend(layer, [tile], given[layer])[0])
        assert len({tuple(out.flatten().tolist()) for out in together}) == 3


def test_a_canvas_leaves_no_trace_in_any_page() -> None:
    texts = Texts([8, 7], [3])
    given = both(23, texts=2)
    texts.encode(given)
    before = [pool.clone() for pool in texts.kv.pools]
    for layer in (SLIDING, FULL):
        texts.attend(layer, texts.canvases(), given[layer])
    for old, new in zip(before, texts.kv.pools, strict=True):
        assert torch.equal(old.nan_to_num(1e9), new.nan_to_num(1e9))


def test_rows_between_the_tiles_come_out_as_zeros() -> None:
    """They go on through the layers: garbage there would meet the arithmetic of a whole pass."""
    texts, (q, k, v) = Texts([2]), rows(FULL, 30)
    out = texts.kv.attend([(tile, 5 + 12 * at) for at, tile in enumerate(texts.scheduler.plan())])(
        FULL, q[0], k[0], v[0]
    )
    real = [5, 6, *range(17, 17 + tiny.CANVAS)]
    assert out.abs().sum((1, 2)).nonzero().flatten().tolist() == real


@settings(max_examples=30)
@given(pieces=st.lists(st.integers(1, 8), min_size=1, max_size=6), pieces_a_pass=st.integers(1, 3))
def test_a_text_encoded_in_pieces_equals_a_softmax_over_all_of_it(pieces: list[int], pieces_a_pass: int) -> None:
    """What a settled canvas relies on: rows after a page see what they would have seen in one piece."""
    texts, total = Texts(pieces, pieces_a_pass=pieces_a_pass), sum(pieces)
    given = both(total, seed=5)
    outs = texts.encode(given)
    for layer, window in ((SLIDING, WINDOW), (FULL, 1000)):
        q, k, v = (part[0].double() for part in given[layer])
        k, v = (part.repeat_interleave(CONFIG.heads // part.shape[1], 1) for part in (k, v))
        row, key = torch.arange(total)[:, None], torch.arange(total)
        hidden = ((key > row) | (key <= row - window)).expand(CONFIG.heads, -1, -1)
        weights = torch.einsum("rhd,khd->hrk", q, k).masked_fill(hidden, -torch.inf).softmax(-1)
        exact = torch.einsum("hrk,khd->rhd", weights, v)
        torch.testing.assert_close(outs[layer][0].double(), exact, atol=1e-5, rtol=0)


def test_the_bytes_of_a_page_are_those_the_pools_take() -> None:
    kv = KVCache(CONFIG, 3, 5, torch.device("cpu"), torch.bfloat16)
    full, sliding = page_bytes(CONFIG, torch.bfloat16)
    assert [kv.pools[layer].nbytes for layer in (SLIDING, FULL)] == [5 * sliding, 3 * full]
    assert sliding == tiny.CANVAS * 2 * 2 * 8 * 2  # tokens, keys and values, heads, head size, bytes
