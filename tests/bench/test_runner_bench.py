from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from dgbatch.bench import ray_data, short_rows
from dgbatch.bench.child import TooLong, run_module
from dgbatch.bench.half_done import write_records
from dgbatch.bench.instant import FIRST, InstantEngine, complete, note_first_row
from dgbatch.bench.plot import plot
from dgbatch.bench.runner import (
    COLUMNS,
    NEVER,
    OFTEN,
    OURS,
    RAY_DATA,
    RunnerBench,
    bench_runner,
    findings,
    ratios,
    table_rows,
)
from dgbatch.bench.submitted import peak_bytes, resident_bytes
from dgbatch.errors import BenchError
from dgbatch.records import EngineConfig, Prompt
from dgbatch.runner.run_folder import Run
from dgbatch.runner.spec import load_job
from tests.cli.command import dgbatch

SIDES = [
    {"who": OURS, "rows": 100, "checkpoints": 1, "seconds": 2.0, "rows_per_s": 50.0, "note": ""},
    {"who": RAY_DATA, "rows": 100, "checkpoints": 1, "seconds": 4.0, "rows_per_s": 25.0, "note": ""},
    {"who": OFTEN, "rows": 100, "checkpoints": 7, "seconds": None, "rows_per_s": None, "note": "not done in 9 s"},
]
TOLD = {
    "benchmark": "runner",
    "machine": {"cores": 2},
    "asked": {"workers": 2},
    "run": {
        "rows": 1000, "shards": 2, "work_s": 4.0, "rows_per_s": 250.0, "plan_s": 0.1, "ray_s": 3.0, "verify_s": 0.2,
        "memory": [[0.0, 0, 100 << 20], [1.0, 500, 101 << 20], [2.0, 1000, 102 << 20]], "peak_bytes": 110 << 20,
    },
    "resume": {"rows": 2000, "done": 3, "first_row_s": 2.5, "peak_bytes": 120 << 20},
    "resume_ray_data": [
        {"who": RAY_DATA, "rows": 2000, "done": 1, "first_row_s": 30.0, "limit_s": 60.0, "note": ""},
        {"who": OFTEN, "rows": 2000, "done": 3, "first_row_s": None, "limit_s": 60.0, "note": "not done in 60 s"},
    ],
    "side_by_side": SIDES,
    "dispatch": {
        "workers": 1000,
        "decisions": {"all": {"calls": 5000, "p50_ms": 0.01, "p99_ms": 0.05, "max_ms": 0.75}},
    },
}  # fmt: skip


def prompt(number: int) -> Prompt:
    return Prompt(f"r{number}", 0, ({"role": "user", "content": "What is it?"},), noise_key=1000 + number)


def test_instant_engine_completes_each_prompt_in_order_and_counts(tmp_path):
    engine = InstantEngine.load(str(tmp_path), EngineConfig(canvases=8))
    done = list(engine.generate([prompt(1), None, prompt(2)]))
    assert [one.id for one in done] == ["r1", "r2"]
    assert done[0] == complete(prompt(1)) and done[0].text == "The answer is 1001."
    assert done[0].token_ids == (1001 % 997, 1001 % 499, 1001 % 251, 1)
    assert (engine.stats.prompts, engine.stats.tokens, engine.in_flight) == (2, 8, 8)


def test_first_row_of_all_processes_leaves_its_time_once(tmp_path):
    note_first_row(tmp_path)
    noted = (tmp_path / FIRST).read_text()
    note_first_row(tmp_path)
    assert (tmp_path / FIRST).read_text() == noted and float(noted) > 1e9


def test_short_rows_have_their_own_ids_and_go_on_where_the_last_file_ended(tmp_path):
    short_rows.write(tmp_path, 5, file_rows=3)
    short_rows.write(tmp_path, 2, first=5)
    table = pq.read_table(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert sorted(table["id"].to_pylist()) == [f"row-{n:09d}" for n in range(7)]
    assert table.sort_by("number")["topic"].to_pylist() == ["sums", "maps", "birds", "tides", "rails", "sums", "maps"]
    assert table.sort_by("number")["question"][6].as_py() == "What is 6 plus 6?"


def test_records_of_an_almost_finished_run_leave_out_each_hundredth_shard(tmp_path):
    short_rows.write(tmp_path / "rows", 2200)
    job = short_rows.job(tmp_path / "rows", tmp_path / "run", tmp_path, 1, 8)
    job["workers"]["shard_rows"] = 20
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    assert write_records(str(tmp_path / "job.yaml")) == (110, 108)
    commits = Run.open(str(tmp_path / "run")).commits()
    assert set(range(110)) - {commit.shard for commit in commits} == {0, 100}
    assert sum(commit.ok for commit in commits) == 2160


def test_ray_data_makes_the_rows_that_our_runner_makes(tmp_path):
    short_rows.write(tmp_path / "rows", 20)
    (tmp_path / "job.yaml").write_text(json.dumps(short_rows.job(tmp_path / "rows", tmp_path / "run", tmp_path, 1, 8)))
    made = ray_data.complete_batch(pq.read_table(tmp_path / "rows"), str(tmp_path / "job.yaml"), str(tmp_path))
    spec = load_job(str(tmp_path / "job.yaml"))
    assert made.column_names == [*ray_data.COLUMNS, *spec.output.columns]
    assert made["id"].to_pylist() == [f"row-{n:09d}" for n in range(20)]
    assert made["text"][3].as_py() == f"The answer is {made['noise_key'][3].as_py() % 100_000}."
    assert (tmp_path / FIRST).exists()


def test_checkpoints_of_ray_data_leave_out_the_same_stretches(tmp_path):
    short_rows.write(tmp_path / "rows", 40)
    assert ray_data.write_checkpoints(tmp_path / "rows", tmp_path / "checkpoints", 5, 4, each=False) == 1
    assert ray_data.write_checkpoints(tmp_path / "rows", tmp_path / "each", 5, 4, each=True) == 6
    assert pq.read_table(tmp_path / "each").equals(pq.read_table(tmp_path / "checkpoints"))
    kept = pq.read_table(tmp_path / "checkpoints")
    assert kept.column_names == ["id"]
    assert kept["id"].to_pylist() == [f"row-{n:09d}" for n in range(40) if n // 5 not in (0, 4)]


def test_child_that_takes_too_long_is_ended_and_one_that_fails_is_quoted(tmp_path):
    with pytest.raises(TooLong, match=r"not done in 0\.01 s"):
        run_module("dgbatch.bench.submitted", {}, 0.01)
    with pytest.raises(BenchError, match=r"submitted ended with exit code 1: KeyError: 'job'"):
        run_module("dgbatch.bench.submitted", {}, 60)


def test_memory_of_this_process_is_told_in_bytes():
    assert 10 << 20 < resident_bytes() <= peak_bytes() + (64 << 20)


def test_ratios_are_ours_over_theirs_and_none_where_they_were_not_done():
    assert ratios(TOLD) == {
        "rows_per_s_over": {RAY_DATA: 2.0, OFTEN: None},
        "resume_sooner_than": {RAY_DATA: 12.0, OFTEN: None},
        "resume_sooner_than_at_least": {OFTEN: 24.0},
    }
    alone = {**TOLD, "side_by_side": [], "resume_ray_data": []}
    assert ratios(alone) == {
        "rows_per_s_over": {}, "resume_sooner_than": {}, "resume_sooner_than_at_least": {},
    }  # fmt: skip


def test_table_and_findings_say_what_was_measured():
    rows = table_rows(TOLD)
    assert {len(row) for row in rows} == {len(COLUMNS)}
    assert rows[0] == (OURS, "1,000", "2", "4.0", "250")
    assert rows[3] == (OFTEN, "100", "7", "not done in 9 s", "-")
    assert rows[-3:] == [
        ("dgbatch resumes", "2,000", "3", "2.5", "-"),
        ("Ray Data resumes", "2,000", "1", "30.0", "-"),
        ("Ray Data, blocks of 512 resumes", "2,000", "3", "not done in 60 s", "-"),
    ]
    assert findings({**TOLD, **ratios(TOLD)}) == [
        "plan 0.1 s, Ray 3.0 s, rows 4.0 s, proof 0.2 s",
        "driver: 101 MB at the first rows, 102 MB at the last, at most 110 MB; resumed, at most 120 MB",
        "dgbatch / Ray Data: 2.00x rows/s",
        "dgbatch / Ray Data, blocks of 512: - rows/s",
        "1,000 simulated workers: 5,000 decisions, p50 0.01 ms, p99 0.05 ms, at most 0.75 ms",
        "first row of a resumed run, Ray Data / dgbatch: 12.0x seconds",
        "first row of a resumed run, Ray Data, blocks of 512 / dgbatch: more than 24x seconds",
    ]


def test_picture_of_the_runner_is_written(tmp_path):
    pytest.importorskip("matplotlib")
    plot(TOLD, tmp_path / "runner.png")
    assert (tmp_path / "runner.png").read_bytes().startswith(b"\x89PNG")


def test_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(BenchError, match=r"--folder .* not empty"):
        bench_runner(RunnerBench(folder=str(tmp_path)), print)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_bench_runner_measures_ours_and_ray_data_on_a_few_rows(tmp_path, capfd):
    pytest.importorskip("pandas")
    out = tmp_path / "runner.json"
    sizes = ("--rows", "1500", "--resume-rows", "1200", "--peer-rows", "1100", "--dispatch-workers", "20")
    left = dgbatch(capfd, "bench", "runner", *sizes, "--out", str(out))
    assert left.code == 0, left.err
    told = json.loads(out.read_text())
    assert told["run"]["rows"] == 1500 and told["run"]["shards"] == 3 and told["run"]["holds"] is True
    stages = [told["run"][stage] for stage in ("plan_s", "ray_s", "work_s", "verify_s")]
    assert all(seconds > 0 for seconds in stages)
    assert told["run"]["memory"][0][2] > 10 << 20
    assert (told["resume"]["shards"], told["resume"]["done"], told["resume"]["rows"]) == (3, 2, 1200)
    assert told["resume"]["first_row_s"] > 0 and all(side["first_row_s"] > 0 for side in told["resume_ray_data"])
    assert [side["who"] for side in told["side_by_side"]] == [OURS, RAY_DATA, OFTEN, NEVER]
    assert [side["checkpoints"] for side in told["side_by_side"]] == [3, 1, 3, 0]
    assert all(side["rows_per_s"] > 0 for side in told["side_by_side"])
    assert set(told["rows_per_s_over"]) == {RAY_DATA, OFTEN, NEVER}
    assert (told["dispatch"]["workers"], told["dispatch"]["shards"]) == (20, 20_000)
    assert told["dispatch"]["decisions"]["all"]["calls"] > 20_000
    assert "dgbatch resumes" in left.out and "blocks of 512" in left.out
