from __future__ import annotations

import json
import sys

import pytest

from dgbatch.bench import engine as bench
from dgbatch.bench.engine import EngineBench, crossover, findings, prepare, ratios, report, table_rows
from dgbatch.bench.measure import Contender, Result, Run
from dgbatch.bench.plot import check, plot
from dgbatch.errors import BenchError
from tests.cli.command import dgbatch


def result(kind: str, at_once: int, rows_per_s: float, variant: str = "", tokens_per_s: float = 0.0) -> Result:
    steps = None if kind == "autoregressive" else 3.0
    return Result(kind, at_once, variant, 3, rows_per_s, tokens_per_s or 30 * rows_per_s, 1.1, 0.98, steps)


RESULTS = [
    result("dgbatch", 1, 20.0),
    result("dgbatch", 8, 60.0),
    result("dgbatch", 64, 66.0),
    result("transformers", 1, 10.0, "eager"),
    result("transformers", 1, 8.0, "batched_mm"),
    result("transformers", 8, 30.0, "eager"),
    result("transformers", 8, 33.0, "grouped_mm"),
    result("transformers by length", 8, 44.0, "grouped_mm"),
    result("autoregressive", 1, 2.0),
    result("autoregressive", 8, 15.0),
    result("autoregressive", 64, 99.0),
    result("continuous", 8, 24.0),
    result("lockstep", 8, 16.0),
]
MACHINE = {"device": "cpu", "threads": 1}


def test_ratios_compare_the_best_with_the_best_and_one_with_one():
    told = ratios(RESULTS)
    assert told["best_over_transformers_best"] == 2.0
    assert told["best_over_transformers_by_length"] == 1.5
    assert told["alone_over_transformers_batch_1"] == 2.0
    assert told["continuous_over_lockstep"] == {"8": 1.5}
    assert told["diffusion_over_autoregressive"] == {"1": 10.0, "8": 4.0, "64": pytest.approx(2 / 3)}
    assert told["autoregressive_wins_from"] == 64


def test_sides_that_did_not_take_part_leave_no_ratio():
    told = ratios(RESULTS[:3])
    assert told["best_over_transformers_best"] is None
    assert told["alone_over_transformers_batch_1"] is None
    assert told["continuous_over_lockstep"] == {}
    assert told["autoregressive_wins_from"] is None
    assert findings(report(EngineBench(), MACHINE, RESULTS[:3])) == []


def test_the_crossover_is_where_the_other_side_stays_ahead():
    def race(*wins: bool) -> list[Result]:
        ours = [result("dgbatch", 2**n, 10.0) for n in range(len(wins))]
        return ours + [result("autoregressive", 2**n, 11.0 if win else 9.0) for n, win in enumerate(wins)]

    assert crossover(race(False, True, False, True, True)) == 8
    assert crossover(race(True, True)) == 1
    assert crossover(race(True, False)) is None


def test_the_table_has_a_line_per_size_and_the_fastest_way_of_transformers():
    rows = table_rows(report(EngineBench(), MACHINE, RESULTS))
    assert [row[:2] for row in rows] == [
        ("dgbatch", "1"),
        ("dgbatch", "8"),
        ("dgbatch", "64"),
        ("transformers eager", "1"),
        ("transformers grouped_mm", "8"),
        ("  by length, grouped_mm", "8"),
        ("autoregressive", "1"),
        ("autoregressive", "8"),
        ("autoregressive", "64"),
        ("1-4 canvases, continuous", "8"),
        ("1-4 canvases, lockstep", "8"),
    ]
    assert rows[0][2:] == ("20.0", "600", "98.0%", "3.00")
    assert rows[6][-1] == "-"
    assert "autoregressive wins from: 64 at once" in findings(report(EngineBench(), MACHINE, RESULTS))


@pytest.fixture
def measured(monkeypatch):
    """In the place of all contenders: some that take no time."""
    asked: list[EngineBench] = []

    def quick(own: EngineBench):
        asked.append(own)
        runs = [Contender(r.kind, r.at_once, lambda r=r: Run(60, 59, 1800, 60 / r.rows_per_s, 90, 270), r.variant)
                for r in RESULTS]  # fmt: skip
        return runs, {"transformers": "5.23.0"}, "cpu"

    monkeypatch.setattr(bench, "prepare", quick)
    return asked


def test_command_prints_a_table_of_80_columns_and_writes_what_it_printed(capfd, tmp_path, measured):
    pytest.importorskip("matplotlib")
    out, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    arguments = ("bench", "engine", "--rows", "4", "--canvases", "8", "--canvases", "1", "--no-lockstep")
    left = dgbatch(capfd, *arguments, "--out", str(out), "--plot", str(picture))
    assert left.code == 0
    assert max(map(len, left.out.splitlines())) <= 80
    assert "dgbatch at its best / transformers at its best: 2.00x rows/s" in left.out
    assert "warm-up: transformers eager 1, 6.0 s" in left.err
    assert picture.read_bytes().startswith(b"\x89PNG")
    told = json.loads(out.read_text())
    assert told["machine"]["transformers"] == "5.23.0"
    assert told["results"][0]["rows_per_s"] == pytest.approx(20.0)
    assert (measured[0].canvases, measured[0].lockstep, measured[0].rows) == ((1, 8), (), 4)


def test_command_prints_one_json_object(capfd, measured):
    told = dgbatch(capfd, "bench", "engine", "--repeats", "1", "--json").json
    assert told["benchmark"] == "engine"
    assert told["best_over_transformers_best"] == pytest.approx(2.0)
    assert told["asked"]["canvases"] == [1, 2, 4, 8, 16, 32, 64]


def test_what_would_fail_at_the_end_fails_at_once(capfd, tmp_path, measured, monkeypatch):
    left = dgbatch(capfd, "bench", "engine", "--out", str(tmp_path / "nowhere" / "bench.json"))
    assert left.code == 2
    assert "make it first" in left.err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    left = dgbatch(capfd, "bench", "engine", "--plot", str(tmp_path / "bench.png"), "--json")
    assert left.code == 2
    assert "pip install 'dgbatch[bench]'" in left.json["error"]["message"]
    with pytest.raises(BenchError, match="matplotlib"):
        plot({}, tmp_path / "bench.png")
    check(None)
    assert measured == []


def test_contenders_run_the_same_prompts(monkeypatch):
    asked = EngineBench(rows=3, threads=1, canvases=(2,), lockstep=(2,), transformers=False)
    contenders, versions, device = prepare(asked)
    assert [(one.kind, one.at_once) for one in contenders] == [
        ("dgbatch", 2),
        ("autoregressive", 2),
        ("continuous", 2),
        ("lockstep", 2),
    ]
    assert (versions, device) == ({}, "cpu")
    runs = [one.run() for one in contenders]
    assert [run.rows for run in runs] == [3, 3, 3, 3]
    assert runs[0].canvases and runs[0].steps and not runs[1].canvases
    with pytest.raises(BenchError, match="at most as many"):
        prepare(EngineBench(rows=100_000, threads=1, canvases=(1,), lockstep=()))
