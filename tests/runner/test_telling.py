from __future__ import annotations

from dataclasses import replace

import pytest

from dgbatch.records import CurvePoint, EngineStats
from dgbatch.runner import telling as module
from dgbatch.runner.actors import Actor
from dgbatch.runner.ledger import Tally
from dgbatch.runner.progress import Progress
from dgbatch.runner.report import Report
from dgbatch.runner.telling import Telling

LOADED = Report(loaded=True, device="fake", canvases=4, curve=(CurvePoint(1, 0.1), CurvePoint(4, 0.2)))


class Told:
    """A Telling with a clock of its own, of a job of 100 rows in 10 shards."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        self.shown: list[Progress] = []
        self.telling = Telling("job", "out", 100, 10, self.shown.append)

    def tell(self, tally: Tally, *crew: Actor, after_s: float = 1.0) -> Progress:
        self.now += after_s
        self.telling.tell(tally, crew)
        return self.shown[-1]


@pytest.fixture
def told(monkeypatch) -> Told:
    return Told(monkeypatch)


def worker(name: str, rows: int, open_rows: int = 0, **changes: object) -> Actor:
    stats = EngineStats(tokens=10 * rows, canvases=rows, denoise_steps=5 * rows, seconds={"denoise": float(rows)})
    report = replace(LOADED, open_rows=open_rows, stats=stats, lengths=((10, rows),))
    return Actor(name, None, 1000.0, replace(report, **changes))


def test_progress_counts_rows_in_work_and_sees_each_worker(told):
    progress = told.tell(
        Tally(shards=1, ok=9, quarantined=1, tokens=90), worker("w0", 14, 4), Actor("w1", None, 1000.5)
    )
    assert (progress.rows, progress.ok, progress.quarantined, progress.tokens) == (14, 9, 1, 90)
    assert (progress.shards, progress.shards_done, progress.elapsed_s) == (10, 1, 1.0)
    w0, w1 = progress.crew
    assert (w0.name, w0.state, w0.device, w0.canvases, w0.rows, w0.since_step_s) == (
        "w0",
        "working",
        "fake",
        4,
        14,
        1.0,
    )
    assert (w1.name, w1.state, w1.rows) == ("w1", "starting", 0)
    assert (progress.workers, progress.steps_per_canvas, progress.seconds) == (1, 5.0, {"denoise": 14.0})


def test_speed_now_is_that_of_late_and_the_mean_that_of_all_the_time(told):
    told.tell(Tally(), worker("w0", 0))
    for second in range(1, 41):  # a row a second, then two
        progress = told.tell(Tally(), worker("w0", second + max(0, second - 20), second))
    assert progress.tokens_per_s == pytest.approx(20.0)
    assert progress.mean_tokens_per_s == pytest.approx(15.0)
    assert progress.crew[0].tokens_per_s == pytest.approx(20.0)


def test_eta_follows_from_the_rows_that_are_left(told):
    assert told.tell(Tally(), worker("w0", 0)).eta_s is None
    for second in range(1, 41):
        progress = told.tell(Tally(), worker("w0", second, second))
    assert progress.eta_s == pytest.approx(60, rel=0.1)


def test_what_a_lost_worker_did_still_counts_for_speed_steps_and_time(told):
    told.tell(Tally(), worker("w0", 0))
    for second in range(1, 11):
        told.tell(Tally(), worker("w0", second, second))
    told.telling.lost(worker("w0", 10, 10))
    progress = told.tell(Tally(), Actor("w0", None, 1011.0))
    assert progress.mean_tokens_per_s == pytest.approx(100 / 11)
    assert (progress.steps_per_canvas, progress.seconds) == (5.0, {"denoise": 10.0})
    assert progress.recent_steps == (5.0,) * 5
    assert progress.rows == 0


def test_last_errors_stay_when_the_note_has_gone(told):
    for number in range(7):
        told.telling.went_wrong(f"error {number}")
    progress = told.tell(Tally(), worker("w0", 0))
    assert progress.note == "error 6"
    assert [problem.text for problem in progress.problems] == [f"error {number}" for number in range(2, 7)]
    told.now += 10
    told.telling.quiet()
    progress = told.tell(Tally(), worker("w0", 0))
    assert progress.note == ""
    assert len(progress.problems) == 5


def test_workers_stand_in_the_order_of_their_numbers(told):
    crew = told.tell(Tally(), worker("w10", 1), worker("w2", 1), worker("w0", 0)).crew
    assert [each.name for each in crew] == ["w0", "w2", "w10"]


def test_states_of_workers(told):
    leaving = worker("w1", 1)
    leaving.leaving = True
    last_rows = worker("w2", 1, idle=True, unstarted=(((0, 0), 0),))  # nothing to begin, and a piece in its hands
    crew = told.tell(Tally(), worker("w0", 1, idle=True), leaving, last_rows).crew
    assert [each.state for each in crew] == ["idle", "leaving", "working"]


def test_before_a_worker_of_this_submit_settles_a_canvas_steps_are_those_of_earlier_ones(told):
    assert told.tell(Tally(canvases=10, denoise_steps=70), worker("w0", 0)).steps_per_canvas == 7.0


def test_display_is_not_told_all_the_time(told):
    told.tell(Tally(), worker("w0", 0))
    told.tell(Tally(), worker("w0", 1), after_s=0.1)
    assert len(told.shown) == 1
    told.telling.say("something is new")  # is told at once
    told.tell(Tally(), worker("w0", 1), after_s=0.0)
    assert len(told.shown) == 2


def test_looking_at_all_workers_takes_a_twentieth_of_the_time_at_most(told, monkeypatch):
    def slowly() -> float:
        told.now += 0.02
        return told.now

    monkeypatch.setattr(module.time, "monotonic", slowly)
    for _ in range(500):
        told.tell(Tally(), worker("w0", 0), after_s=0.0)
    apart = [after.elapsed_s - before.elapsed_s for before, after in zip(told.shown, told.shown[1:], strict=False)]
    assert len(apart) > 10
    assert all(seconds == pytest.approx(0.4, abs=0.03) for seconds in apart)
