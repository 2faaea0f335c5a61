"""The rotation of positions is the same looked up as computed."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.engine import kernels
from dgbatch.engine.model.layers import Rope
from tests.engine import tiny

KINDS = tiny.tiny_model().config.layers


@given(st.lists(st.lists(st.integers(0, 5000), min_size=1, max_size=40), min_size=1, max_size=4))
def test_looked_up_rotations_are_the_computed_ones_bit_for_bit(passes: list[list[int]]) -> None:
    rope = Rope(KINDS)
    for positions in map(torch.tensor, passes):
        for kind, looked_up in rope(positions).items():
            frequencies = kernels.rope_frequencies(kind.head_dim, kind.rope_theta, kind.rotated_pairs)
            computed = kernels.rope_angles(positions, frequencies)
            assert all(torch.equal(*pair) for pair in zip(looked_up, computed, strict=True))


def test_every_kind_of_layer_has_its_own_rotation() -> None:
    angles = Rope(KINDS)(torch.arange(3))
    assert angles.keys() == set(KINDS)
    assert {cos.shape[-1] for cos, _ in angles.values()} == {kind.head_dim for kind in KINDS}


def test_a_pass_without_rows_has_no_rotations_to_look_up() -> None:
    assert all(len(cos) == 0 for cos, _ in Rope(KINDS)(torch.arange(0)).values())


def test_tables_made_for_inference_serve_training() -> None:
    rope = Rope(KINDS)
    with torch.inference_mode():
        rope(torch.arange(8))
    for cos, sin in rope(torch.arange(8)).values():
        x = torch.ones(8, 1, cos.shape[-1], requires_grad=True)
        kernels.rope(x * 1.0, cos, sin).sum().backward()
        assert x.grad is not None
