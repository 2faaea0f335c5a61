"""What plotly is told to draw is what the figures say."""

from __future__ import annotations

import base64
import gzip
import re
from pathlib import Path
from typing import Any

import pytest

from dgbatch.runner.pages import page, plots
from dgbatch.runner.pages.distribution import distribution, of_buckets
from dgbatch.runner.pages.timeline import Life, Throughput

STYLE = Path(page.__file__).with_name("page.css").read_text()


def life(worker: str, **seconds: float) -> Life:
    return Life(worker, "NVIDIA H200", "here:1", 10.0, {"seconds": seconds})


def over_time(**changes: Any) -> plots.Plot:
    found = {"width_s": 60.0, "tokens_per_s": (10.0, 30.0, 20.0, 0.0), "rows_per_s": (1.0,) * 4, "busy_s": 200.0}
    found |= {"restarts": (), "losses": ()} | changes
    return plots.over_time(Throughput(**found), found["tokens_per_s"], "tokens/s")  # type: ignore[arg-type]


def test_rates_are_steps_from_the_begin_of_a_bin_to_its_end():
    plot = over_time()
    (line,) = plot["data"]
    assert (line["x"], line["y"]) == ([0.0, 1.0, 2.0, 3.0, 4.0], [10.0, 30.0, 20.0, 0.0, 0.0])
    assert line["line"]["shape"] == "hv"
    assert plot["layout"]["xaxis"] == {"title": {"text": "minutes of work"}, "range": [0, 4.0]}
    assert line["text"][1] == "1:00  <b>30</b> tokens/s"


def test_restarts_are_lines_and_losses_are_marks_at_their_second_of_work():
    plot = over_time(restarts=((120.0, 3600.0), (230.0, 5.0)), losses=((90.0, "w<1>"),))
    assert [line["x0"] for line in plot["layout"]["shapes"]] == [2.0, pytest.approx(230 / 60)]
    notes = plot["layout"]["annotations"]
    assert [note["text"] for note in notes] == ["again after 1:00:00", "again after 0:05"]
    assert [note["xanchor"] for note in notes] == ["center", "right"]  # not past the edge
    assert (plot["data"][1]["x"], plot["data"][1]["text"]) == ([1.5], ["worker w&lt;1&gt; lost"])


@pytest.mark.parametrize(("width_s", "unit"), [(1.0, "seconds"), (50.0, "minutes"), (5_000.0, "hours")])
def test_work_is_told_in_a_unit_that_fits_it(width_s, unit):
    assert over_time(width_s=width_s)["layout"]["xaxis"]["title"]["text"] == f"{unit} of work"


def test_a_bar_of_one_number_stands_on_it_and_one_of_many_between_its_edges():
    (single,) = plots.bars(distribution({2: 5, 3: 7}), "steps", "canvases")["data"]
    assert (single["x"], single["y"]) == ([2.0, 3.0], [5, 7])
    assert single["hovertext"][1] == "3 steps<br><b>7</b> canvases, 58.3%"
    plot = plots.bars(distribution(dict.fromkeys(range(200), 1)), "tokens", "rows")
    assert plot["data"][0]["x"][:2] == [2.5, 7.5]
    assert plot["layout"]["shapes"][0]["x0"] == 99  # the median


def test_uneven_buckets_are_named_by_their_upper_bound():
    plot = plots.bars(of_buckets((0.5, 1, 2.5), (0, 3, 1, 2), 9.0), "seconds", "rows")
    assert (plot["data"][0]["x"], plot["data"][0]["y"]) == (["≤ 1", "≤ 2.5", "> 2.5"], [3, 1, 2])
    assert plot["layout"]["xaxis"]["type"] == "category"


def test_shares_of_a_worker_add_up_to_all_of_its_time():
    lives = [life("w0", denoise=6.0, load=2.0), life("w1", denoise=1.0, polish=1.0), Life("w2", "", "", 3.0, {})]
    plot = plots.phases(lives)
    assert plots.known_phases(lives) == ["load", "denoise", "polish"]
    shares = [trace["x"] for trace in plot["data"]]
    assert shares == [[0.25, 0.0], [0.75, 0.5], [0.0, 0.5]]
    assert plot["data"][1]["hovertext"] == ["denoise  <b>75.0%</b>  0:06", "denoise  <b>50.0%</b>  0:01"]


def test_a_worker_that_came_twice_has_two_bars():
    plot = plots.phases([life("w0", load=1.0), life("w0", load=1.0)])
    assert len(set(plot["data"][0]["y"])) == 2


def test_many_workers_do_not_make_a_long_page():
    plot = plots.phases([life(f"w{number}", load=1.0) for number in range(500)])
    assert len(plot["data"][0]["y"]) == plots.MOST_WORKERS
    assert plot["layout"]["height"] < 1200


def test_every_colour_is_one_that_the_page_has_for_day_and_night():
    drawn = [over_time(restarts=((9.0, 9.0),), losses=((1.0, "w0"),)), plots.phases([life("w0", load=1.0, other=1.0)])]
    drawn.append(plots.bars(distribution({1: 1}), "steps", "canvases"))
    named = set(re.findall(r"'(--[\w-]+)'", str(drawn))) | {plots.colour(phase) for phase in plots.PHASES}
    by_day, by_night = STYLE.split("@media (prefers-color-scheme: dark)")
    assert len(named) >= 10
    for name in named:
        assert f"{name}:" in by_day, name
        assert f"{name}:" in by_night, name


def test_the_library_is_plotly_and_its_licence_and_is_packed():
    packed = plots.library()
    source = gzip.decompress(base64.b64decode(packed))
    assert b"Licensed under the MIT license" in source[:500]
    assert len(packed) < 2.5e6 < len(source)
