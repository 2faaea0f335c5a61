from __future__ import annotations

import pytest

from dgbatch.runner.rates import POINTS, Rates, RecentSteps


def test_rates_are_those_of_the_window():
    rates = Rates(window_s=10)
    assert rates.rows_per_s is None
    for second in range(21):  # 1 row a second at first, then 3
        rates.add(second, second if second <= 10 else 10 + 3 * (second - 10), 100 * second)
    assert rates.rows_per_s == pytest.approx(3.0)
    assert rates.tokens_per_s == pytest.approx(100.0)


def test_rates_start_anew_when_a_worker_took_its_open_rows_with_it():
    rates = Rates()
    rates.add(0, 0, 0)
    rates.add(10, 100, 1000)
    rates.add(11, 60, 1000)
    assert rates.rows_per_s is None
    rates.add(12, 70, 1100)
    assert rates.rows_per_s == pytest.approx(10.0)


def test_recent_steps_are_those_of_the_canvases_since_the_last_point():
    recent = RecentSteps()
    recent.add(100.0, 0, 0)
    recent.add(101.0, 2, 10)  # too soon
    recent.add(102.0, 4, 20)
    recent.add(104.5, 4, 20)  # no canvas settled
    recent.add(105.0, 6, 40)
    assert list(recent.points) == [5.0, 10.0]


def test_recent_steps_keep_no_more_than_they_show():
    recent = RecentSteps()
    for number in range(1, 200):
        recent.add(2.0 * number, number, number * 7)
    assert list(recent.points) == [7.0] * POINTS
