from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dgbatch.runner.forecast import Forecast, Seen
from dgbatch.runner.spread import Spread
from tests.runner.simulated_crew import Crew, forecasts

ROWS = 3000  # the first 300 of them say within a few per cent how long the others are, and 30 would not
LENGTHS: dict[str, Callable[[random.Random], int]] = {
    "all alike": lambda chance: 20,
    "from one step to forty": lambda chance: chance.randint(1, 40),
    "as waiting times are, up to a limit": lambda chance: min(100, 1 + round(chance.expovariate(1 / 20))),
    "one in five is five times as long": lambda chance: 50 if chance.random() < 0.2 else 10,
    "half of them rejected at once": lambda chance: 1 if chance.random() < 0.5 else 40,
}
few = settings(max_examples=20, phases=[Phase.generate])  # each is a whole run, several times over


def rows(kind: str, seed: int) -> list[int]:
    chance = random.Random(seed)
    return [LENGTHS[kind](chance) for _ in range(ROWS)]


@few
@given(
    kind=st.sampled_from(sorted(LENGTHS)),
    seed=st.integers(0, 10**6),
    workers=st.integers(1, 4),
    canvases=st.integers(1, 8),
    more_s=st.sampled_from([0.0, 0.01]),
    load_s=st.floats(0, 20),
)
def test_eta_is_right_within_a_fifth_after_a_tenth_of_the_rows(kind, seed, workers, canvases, more_s, load_s):
    crew = Crew(rows(kind, seed))
    for number in range(workers):
        crew.start(f"w{number}", canvases, more_s=more_s, load_s=load_s * (1 + number / 4))
    checks = forecasts(crew)
    assert len(checks) == 7
    assert all(check.error <= 0.2 for check in checks), checks


@few
@given(kind=st.sampled_from(sorted(LENGTHS)), seed=st.integers(0, 10**6), at=st.floats(0.05, 0.85))
def test_eta_is_right_when_workers_die_come_and_leave(kind, seed, at):
    crew = Crew(rows(kind, seed))
    for name in ("w0", "w1", "w2"):
        crew.start(name, 4, load_s=10)
    came = (at / 2, partial(Crew.start, name="w3", canvases=4, load_s=12))
    died = (at, partial(Crew.lose, name="w1"))
    again = (at, partial(Crew.start, name="w1", canvases=4, load_s=10))
    left = (at + 0.1, partial(Crew.lose, name="w0"))
    checks = forecasts(crew, [came, died, again, left])
    assert all(check.error <= 0.2 for check in checks), checks


def test_eta_is_right_for_a_few_rows_that_take_most_of_the_time():
    chance = random.Random(7)
    crew = Crew([200 if chance.random() < 0.05 else 8 for _ in range(12_000)])
    for name in ("w0", "w1"):
        crew.start(name, 8)
    assert all(check.error <= 0.2 for check in forecasts(crew))


def test_eta_is_right_where_one_worker_is_four_times_as_fast():
    crew = Crew(rows("from one step to forty", 1))
    crew.start("slow", 4, step_s=0.2)
    crew.start("fast", 4, step_s=0.05, load_s=30)
    assert all(check.error <= 0.2 for check in forecasts(crew))


def seen(name: str, done: int, loaded: bool = True) -> Seen:
    return Seen(name, done, 1 if loaded else 0, loaded)


def alike(count: int) -> Spread:
    spread = Spread()
    for _ in range(count):
        spread.add(8)
    return spread


def test_nobody_knows_before_the_first_row():
    forecast = Forecast()
    assert forecast.eta_s(10, Spread()) is None
    forecast.saw(0, [seen("w0", 0)])
    forecast.saw(10, [seen("w0", 0)])
    assert forecast.eta_s(10, Spread()) is None
    assert forecast.eta_s(0, Spread()) == 0


def test_worker_that_starts_counts_from_when_it_will_be_ready():
    """w0 took 20 s to start and does a row a second; so will w1, which began to start 5 s ago."""
    forecast = Forecast()
    forecast.saw(0, [seen("w0", 0, loaded=False)])
    for second in range(20, 121):
        crew = [seen("w0", second - 20)] + ([seen("w1", 0, loaded=False)] if second >= 115 else [])
        forecast.saw(second, crew)
    assert forecast.eta_s(100, alike(100)) == pytest.approx(15 + 85 / 2, rel=0.05)


def test_worker_that_takes_far_too_long_to_start_is_not_waited_for():
    forecast = Forecast()
    forecast.saw(0, [seen("w0", 0, loaded=False)])
    for second in range(10, 111):
        forecast.saw(second, [seen("w0", second - 10), seen("w1", 0, loaded=False)])
    assert forecast.eta_s(100, alike(100)) == pytest.approx(100, rel=0.05)


def test_what_a_lost_worker_did_still_says_how_fast_workers_are():
    forecast = Forecast()
    for second in range(101):
        forecast.saw(second, [seen("w0", second)])
    forecast.saw(100, [seen("w0", 0, loaded=False)])  # another one of the same name, at once ready as the first was
    forecast.saw(100, [seen("w0", 0)])
    assert forecast.eta_s(50, alike(100)) == pytest.approx(50, rel=0.05)


def test_a_machine_that_became_slower_is_forgotten_to_have_been_faster():
    forecast = Forecast()
    done = 0
    for second in range(0, 20_000, 10):
        done += 100 if second < 10_000 else 25
        forecast.saw(second, [seen("w0", done)])
    assert forecast.eta_s(10_000, alike(done)) == pytest.approx(4000, rel=0.05)


def test_eta_is_right_at_the_end_when_the_longest_row_in_work_decides():
    crew = Crew(rows("as waiting times are, up to a limit", 2))
    for number in range(4):
        crew.start(f"w{number}", 16)
    assert all(check.error <= 0.2 for check in forecasts(crew, shares=(0.5, 0.8, 0.9, 0.95)))


def test_rows_that_are_half_done_count():
    """Ten rows at once, each 10 s: after 95 s ninety are done, and half of the next ten."""
    forecast = Forecast()
    for second in range(96):
        forecast.saw(second, [Seen("w0", 10 * (second // 10), 10, loaded=True)])
    assert forecast.eta_s(1000, alike(90)) == pytest.approx(1000, rel=0.02)
