"""Which blocks a GPU gets: what its shared memory holds."""

from __future__ import annotations

from typing import Any

import pytest

from dgbatch.engine.kernels import attend, experts_up, gated, head, linear, soft_rows
from dgbatch.engine.kernels.launch import shares_little

BF16 = 2  # bytes


def blocks(arch: int) -> list[Any]:
    """Of all products at the 26B model's shapes, at one canvas and at many."""
    products = [(linear.configuration(rows, 2816, arch), gated.configuration(rows, 2112, arch)) for rows in (256, 2048)]
    experts = [experts_up.token_tiles(mean, arch) for mean in (16, 128)]
    heads = [attend.config(size, BF16, rows, arch) for size, rows in ((256, 512), (512, 2048))]
    return [products, experts, heads, head.config(256, BF16, arch), soft_rows.config(256, BF16, arch)]


@pytest.mark.parametrize("arch", [80, 86, 89, 121])
def test_cards_before_hopper_and_rtx_cards_have_the_blocks_of_99_kilobytes(arch: int) -> None:
    """A block made for 227 KB does not even start there: RTX 30 and 40 (86, 89) have as little as RTX 50 (120)."""
    assert shares_little(arch)
    assert blocks(arch) == blocks(120)


def test_every_blackwell_of_a_data_centre_has_the_same_blocks() -> None:
    """B300 is 103: all that B200, 100, has."""
    assert blocks(103) == blocks(100)
    assert blocks(100) != blocks(120)
