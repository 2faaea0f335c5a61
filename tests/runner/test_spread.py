from __future__ import annotations

import random
from itertools import accumulate

import pytest

from dgbatch.runner.spread import MOST_CV2, Spread


def spread_of(steps: list[int]) -> Spread:
    spread = Spread()
    for each in steps:
        spread.add(each)
    return spread


def test_counts_of_two_workers_add_up():
    one, other = spread_of([0, 1, 8]), spread_of([8, 8, 300])
    both = Spread()
    both.add_counts(one.counts)
    both.add_counts(other.counts)
    assert both.counts == spread_of([0, 1, 8, 8, 8, 300]).counts
    assert both.rows == 6


def test_histogram_stays_small_however_long_rows_are():
    assert len(spread_of(list(range(1, 100_000))).counts) < 70


@pytest.mark.parametrize(("steps", "cv2"), [([20] * 9, 0.0), ([0] * 50 + [40] * 50, 1.0), ([0] * 99 + [100], MOST_CV2)])
def test_cv2_is_that_of_the_lengths(steps, cv2):
    assert spread_of(steps).cv2 == pytest.approx(cv2, abs=1e-9)


def test_rows_that_are_all_rejected_have_no_spread():
    assert spread_of([0, 0]).cv2 == 0.0
    assert spread_of([0, 0]).longest_rest(3) > 0


@pytest.mark.parametrize("flying", [1, 4, 32])
def test_longest_rest_is_what_chance_says(flying):
    chance = random.Random(3)
    lengths = [chance.choice([4, 16, 64]) for _ in range(400)]
    mean = sum(lengths) / len(lengths)
    weights = list(accumulate(lengths))  # a row is met at work the likelier the longer it is
    met = [chance.choices(lengths, cum_weights=weights, k=flying) for _ in range(4000)]
    rests = [max(length * chance.random() for length in each) / mean for each in met]
    assert spread_of(lengths).longest_rest(flying) == pytest.approx(sum(rests) / len(rests), rel=0.03)


def test_rest_is_shorter_where_a_device_is_faster_alone():
    spread = spread_of([20] * 10)
    assert spread.longest_rest(8, alone=0.25) < 0.7 * spread.longest_rest(8)
