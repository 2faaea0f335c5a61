from __future__ import annotations

import pytest

from dgbatch.bench.measure import Contender, Result, Run, hopeless, machine, measure, rotated, summary


def contender(name: str, calls: list[str], *seconds: float) -> Contender:
    """Takes these seconds, one after the other."""
    clock = iter(seconds)

    def run() -> Run:
        calls.append(name)
        return Run(rows=4, solved=3, tokens=40, seconds=next(clock), canvases=5, steps=15)

    return Contender(name, 1, run)


def test_every_turn_begins_elsewhere_and_nobody_is_left_out():
    assert [rotated(4, turn, 2) for turn in (0, 1)] == [[0, 1, 2, 3], [2, 3, 0, 1]]
    assert rotated(5, 1, 3) == [1, 2, 3, 4, 0]


def test_warm_up_does_not_count_and_the_median_is_told():
    calls: list[str] = []
    told: list[str] = []
    results = measure([contender("a", calls, 99, 1, 4, 2), contender("b", calls, 99, 1, 1, 1)], 3, told.append)
    assert calls == list("abababba")
    assert results[0] == Result("a", 1, "", 3, 2.0, 20.0, 4.0, 0.75, 3.0)
    assert results[1].rows_per_s == 4.0
    assert told[0] == "warm-up: a 1, 99.0 s"
    assert told[-1].startswith("turn 3 of 3: a 1")


def test_a_side_without_canvases_has_no_steps_per_canvas():
    assert (
        summary(Contender("autoregressive", 1, lambda: Run(1, 1, 1, 1)), [Run(2, 1, 9, 3.0)]).steps_per_canvas is None
    )


def test_the_circumstances_are_told():
    told = machine("cpu", 2)
    assert told["cpu"] and told["torch"]
    assert told["threads"] == 2
    assert told["load_1m"] == pytest.approx(told["load_1m"])


def test_a_variant_far_behind_is_run_once_and_says_so():
    def variant(name: str, at_once: int, seconds: float) -> Contender:
        return Contender("transformers", at_once, lambda: Run(4, 4, 40, seconds), name)

    race = [variant("eager", 8, 1.0), variant("batched_mm", 8, 3.1), variant("eager", 1, 9.0)]
    assert [result.turns for result in measure(race, 2, lambda line: None)] == [2, 0, 2]
    assert measure(race, 1, lambda line: None)[1].rows_per_s == pytest.approx(4 / 3.1)
    assert hopeless([(one, one.run()) for one in race], 8) == {"batched_mm"}
    assert hopeless([(one, one.run()) for one in race], 7) == set()


def test_a_variant_far_behind_is_left_out_with_more_at_once():
    def variant(name: str, at_once: int, seconds: float) -> Contender:
        return Contender("transformers", at_once, lambda: Run(4, 4, 40, seconds), name)

    told: list[str] = []
    race = [variant("eager", 1, 1.0), variant("batched_mm", 1, 3.1), variant("eager", 8, 1.0)]
    results = measure([*race, variant("batched_mm", 8, 99.0)], 1, told.append)
    assert [(result.variant, result.at_once, result.turns) for result in results] == [
        ("eager", 1, 1),
        ("batched_mm", 1, 0),
        ("eager", 8, 1),
    ]
    assert "left out: transformers batched_mm 8, far behind with fewer" in told


def test_what_takes_long_may_warm_up_with_fewer_rows_and_is_judged_by_the_row():
    def variant(name: str, seconds: float) -> Contender:
        long, short = Run(400, 400, 4000, 100 * seconds), Run(4, 4, 40, seconds)
        return Contender("transformers", 8, lambda: long, name, lambda: short)

    fast, slow = measure([variant("eager", 1.0), variant("batched_mm", 3.1)], 2, lambda line: None)
    assert (fast.turns, slow.turns) == (2, 0)
    assert slow.rows_per_s == pytest.approx(4 / 3.1)
    different = [
        Contender("dgbatch", 1, lambda: Run(4, 4, 4, 1.0)),
        Contender("dgbatch", 1, lambda: Run(40, 4, 4, 9.0)),
    ]
    assert [result.turns for result in measure(different, 1, lambda line: None)] == [1, 1]
