"""Counts of values as few bars of a round width, with the numbers that NumPy finds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.runner.pages.distribution import distribution, of_buckets, round_width


def test_few_whole_numbers_have_a_bar_each():
    found = distribution({2: 5, 3: 7, 5: 1})
    assert found is not None
    assert found.bars == (5, 7, 0, 1)
    assert found.labels == ("2", "3", "4", "5")
    assert (found.mean, found.median, found.p95, found.most) == (pytest.approx(36 / 13), 3, 5, 5)


def test_many_whole_numbers_share_bars_of_a_round_width():
    found = distribution(dict.fromkeys(range(1, 401), 1))
    assert found is not None
    assert found.labels[0] == "0 to 9"
    assert found.bars == (9, *[10] * 39, 1)


def test_a_long_tail_lies_in_one_bar():
    found = distribution({**dict.fromkeys(range(100), 10), 50_000: 1})
    assert found is not None
    assert found.edges[-1] <= 105
    assert found.labels[-1].endswith("and more")
    assert found.total == 1001
    assert found.most == 50_000


def test_fractions_lie_between_two_numbers():
    found = distribution({0.25: 1, 0.5: 2, 1.75: 1}, most_bars=8)
    assert found is not None
    assert found.labels[0] == "0.2 to 0.4"
    assert found.total == 4


def test_nothing_has_no_distribution():
    assert distribution({}) is None
    assert distribution({3: 0}) is None
    assert of_buckets((1, 2), (0, 0, 0), 0.0) is None


def test_one_value_is_one_bar():
    assert distribution({7: 3}).bars == (3,)
    assert distribution({0.0: 3}).bars == (3,)


def test_buckets_keep_their_bounds_and_leave_out_empty_ends():
    found = of_buckets((1, 2, 4, 8), (0, 3, 0, 2, 1), 24.0)
    assert found is not None
    assert found.labels == ("1 to 2", "2 to 4", "4 to 8", "above 8")
    assert found.bars == (3, 0, 2, 1)
    assert (found.mean, found.median) == (4.0, None)


@given(st.lists(st.integers(0, 5000) | st.floats(0.0, 300.0, width=32), min_size=1, max_size=200))
def test_every_value_is_in_one_bar_and_the_numbers_are_those_of_numpy(values):
    found = distribution(Counter(values))
    assert found is not None
    assert found.total == len(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.median == np.quantile(values, 0.5, method="inverted_cdf")
    assert found.p95 == np.quantile(values, 0.95, method="inverted_cdf")
    assert len(found.bars) <= 42
    assert len(found.labels) == len(found.bars) == len(found.edges) - 1
    heights, _ = np.histogram(values, bins=[*found.edges[:-1], max(found.edges[-1], max(values) + 1)])
    assert abs(heights - np.array(found.bars)).sum() <= 2 * near_an_edge(values, found.edges)


def near_an_edge(values, edges) -> int:
    """Values that rounding may put on either side."""
    return sum(any(abs(value - edge) < 1e-9 * max(1.0, edge) and value != edge for edge in edges) for value in values)


@pytest.mark.parametrize(("least", "width"), [(0.3, 0.5), (1.0, 1.0), (1.2, 2.0), (7.0, 10.0), (0.02, 0.02), (23, 50)])
def test_widths_are_numbers_that_people_can_say(least, width):
    assert round_width(least) == width
