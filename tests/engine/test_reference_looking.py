"""The twin of attend: who sees whom, against a softmax over the whole text in float64.

Tolerance: 1e-5 for float32 sums of a few dozen terms.
"""

from __future__ import annotations

import pytest
import torch

from dgbatch.engine.kernels import operations
from dgbatch.engine.kernels.reference.looking import chunk_place
from tests.engine.looks import Pass, Shape, Text

CASES = {
    "a canvas with no text before it": [Text(0)],
    "the first chunk of a prompt": [Text(20, chunks=range(1), canvas=False)],
    "a chunk in the middle": [Text(40, chunks=range(3, 4), canvas=False)],
    "a ragged last chunk": [Text(21, chunks=range(2, 3), canvas=False)],
    "a prompt of one token": [Text(1, chunks=range(1), canvas=False)],
    "a canvas after a ragged prompt": [Text(21)],
    "a canvas after a prompt of whole pages": [Text(16)],
    "settled canvases after a ragged prompt": [Text(3, settled=3)],
    "a settled canvas on its way into a page": [Text(21, settled=2, chunks=range(4, 5), canvas=False)],
    "several chunks of one text": [Text(45, chunks=range(1, 5), canvas=False)],
    "a canvas folded behind its chunk": [Text(13, settled=2, chunks=range(3, 4))],
    "a whole prompt and its canvas": [Text(19, chunks=range(3))],
    "company": [Text(21), Text(5, chunks=range(1)), Text(40, chunks=range(2, 4), canvas=False), Text(9, settled=4)],
}


def close(case: Pass) -> None:
    out = operations.attend(*case.asked)
    assert out.shape == case.q.flatten(1).shape
    for tile in range(case.at_work):
        torch.testing.assert_close(out[case.there(tile)].double(), case.exact(tile), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sliding", [False, True], ids=["full", "sliding"])
@pytest.mark.parametrize("name", CASES)
def test_every_row_sees_what_it_may_and_nothing_else(name: str, sliding: bool) -> None:
    close(Pass(CASES[name], sliding=sliding))


@pytest.mark.parametrize(("heads", "kv_heads", "page_tokens"), [(2, 2, 8), (4, 1, 12), (6, 2, 64)])
def test_heads_share_keys_in_groups_of_any_size_and_pages_are_of_any_length(
    heads: int, kv_heads: int, page_tokens: int
) -> None:
    shape = Shape(heads=heads, kv_heads=kv_heads, page_tokens=page_tokens)
    close(Pass([Text(page_tokens * 2 + 3, settled=1, chunks=range(3, 4))], shape, window=page_tokens))


def test_a_tile_is_computed_as_if_it_were_alone() -> None:
    case = Pass(CASES["company"])
    whole = operations.attend(*case.asked)
    for tile in range(case.at_work):
        alone = torch.tensor([tile, tile + 1]) * case.shape.tile_rows
        out = operations.attend(*case.asked[:-1], alone)
        assert torch.equal(out[case.there(tile)], whole[case.there(tile)])


def test_a_pass_with_nobody_at_work_is_nothing() -> None:
    operations.attend(*Pass([Text(5)]).asked[:-1], torch.tensor([64, 64]))


def test_chunks_of_a_prompt_are_pages_long_but_the_last_and_canvases_follow_it() -> None:
    assert [chunk_place(number, 21, 8) for number in range(5)] == [(0, 8), (8, 8), (16, 5), (21, 8), (29, 8)]
    assert [chunk_place(number, 16, 8) for number in range(3)] == [(0, 8), (8, 8), (16, 8)]
