"""How the rows of a pass look at pages: the twin of attend.

A loop over tiles on the host, which reads the tables there: for CPU tensors only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dgbatch.engine.kernels.reference.plain import group_heads, grouped_attention, ungroup_heads
from dgbatch.engine.kernels.tables import Number, Of, Slots, Tiles


def attend(q: Tensor, slots: Slots, tiles: Tiles, pool: Tensor, sliding: bool, window: int, span: Tensor) -> Tensor:
    """softmax(q k^T) v with scale 1, over the pages of a tile's text and its own rows.

    A tile of clean text is causal, on sliding layers within the window: the row at position p sees (p - window, p]. A
    canvas sees itself whole and what comes before it, on sliding layers from START - (window - 1) on, every row the
    same (transformers' DiffusionGemma does it so). Rows past a tile's ROWS are seen by nobody.

    q: (M, heads, head_dim); span: (2,) int32, the rows wanted, whole tiles
    pool: (P + S, 2, kv_heads, C, head_dim), keys before values: P pages of clean text, then one page for each slot's
    canvas; every row of this pass is in there already
    returns: (M, heads * head_dim) like q; undefined outside the span and for padding
    """
    tile_rows, kv_heads = len(q) // len(tiles.table), pool.shape[2]
    first, end = span.tolist()
    out = torch.zeros_like(q)
    for at in range(first // tile_rows, -(-end // tile_rows)):
        slot, canvas, start, rows, chunk = tiles.table[at, : Of.CHUNK + 1].tolist()
        visible = start - window + 1 if sliding else 0
        seen = []
        for number in range(chunk):
            begin, tokens = chunk_place(number, int(slots.numbers[slot, Number.PROMPT]), pool.shape[3])
            if begin + tokens > visible:  # pages before the window may be another's by now
                seen.append(pool[slots.pages[int(sliding), slot, number], :, :, max(0, visible - begin) : tokens])
        own = len(pool) - len(slots.numbers) + slot if canvas else slots.pages[int(sliding), slot, chunk]
        keys, values = torch.cat([*seen, pool[own, :, :, :rows]], 2).unbind()
        mask = None if canvas else _causal(rows, keys.shape[1] - rows, window if sliding else None, q.device)
        here = slice(at * tile_rows, at * tile_rows + rows)
        out[here] = ungroup_heads(grouped_attention(group_heads(q[here], kv_heads), keys, values, mask))
    return out.flatten(1)


def chunk_place(number: int, prompt: int, page_tokens: int) -> tuple[int, int]:
    """Position of a chunk's first token, and its tokens: those of the prompt, of which the last may be short, and
    after them settled canvases."""
    begin = number * page_tokens
    if begin < prompt:
        return begin, min(page_tokens, prompt - begin)
    return prompt + begin - -(-prompt // page_tokens) * page_tokens, page_tokens


def _causal(rows: int, past: int, window: int | None, device: torch.device) -> Tensor:
    key = torch.arange(-past, rows, device=device)
    row = torch.arange(rows, device=device)[:, None]
    return (key <= row) if window is None else (key <= row) & (key > row - window)
