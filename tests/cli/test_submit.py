from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgbatch.runner import submit as steps
from dgbatch.runner.prompts import noise_key
from dgbatch.runner.run_folder import Run
from tests.cli.command import dgbatch
from tests.fake_engine import PATH, fake_job

LIMIT_S = 150.0
PROMPTS = [f"prompt {i}" for i in range(48)]


@pytest.fixture
def fake(monkeypatch, local_ray):
    """The commands of this process use the fake engine."""
    monkeypatch.setattr(steps, "submit", functools.partial(steps.submit, engine=PATH))


def spawn(*arguments: str) -> subprocess.Popen[str]:
    """A real dgbatch process, in a process group of its own as a shell would give it."""
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fake_cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def commits(run: Path) -> list[str]:
    return sorted(os.listdir(run / "_dgbatch" / "commits")) if (run / "_dgbatch" / "commits").exists() else []


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def dataset(run: Path) -> list[dict]:
    rows = pa.concat_tables([pq.read_table(path) for path in sorted((run / "data").glob("*.parquet"))]).to_pylist()
    rows.sort(key=lambda row: (row["id"], row["sample"]))  # pieces of one shard lie in any order
    return [{name: value for name, value in row.items() if name != "attempt"} for row in rows]


def test_driver_killed_in_the_middle_resumes_to_the_same_dataset_row_for_row(tmp_path, capfd, fake):
    plain = fake_job(tmp_path / "plain", PROMPTS, workers={"count": 2})
    assert dgbatch(capfd, "submit", plain).code == 0

    job, run = (
        fake_job(tmp_path / "killed", PROMPTS, {"step_s": 0.4}, workers={"count": 2}),
        tmp_path / "killed" / "out",
    )
    process = spawn("submit", job)
    wait_until(lambda: len(commits(run)) >= 2, process)

    second = dgbatch(capfd, "submit", job, "--json")
    assert second.code == 5
    assert second.json["error"]["type"] == "RunLocked"
    assert f"pid {process.pid}" in second.json["error"]["message"]
    wait_until(lambda: dgbatch(capfd, "status", str(run), "--json").json["workers"], process)  # live.json is 2 s late
    working = dgbatch(capfd, "status", str(run), "--json").json
    assert working["state"] == "in_progress"
    assert working["workers"] in (1, 2)
    assert working["rows"]["expected"] == 48
    assert working["eta_s"] > 0
    assert "in_progress" in dgbatch(capfd, "status", str(run)).out

    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=LIMIT_S)
    before = {name: (run / "_dgbatch" / "commits" / name).read_bytes() for name in commits(run)}
    assert 2 <= len(before) < 6
    dead = dgbatch(capfd, "status", str(run), "--json").json
    assert (dead["state"], dead["workers"], dead["eta_s"]) == ("failed", 0, None)

    resumed = dgbatch(capfd, "submit", job, "--json")
    assert resumed.code == 0, resumed.err
    answer = resumed.json
    assert (answer["state"], answer["exit_code"], answer["run"]) == ("completed", 0, str(run))
    assert answer["rows"] == {"expected": 48, "ok": 48, "quarantined": 0}
    assert f"({sum(json.loads(data)['ok'] for data in before.values())} rows were there already)" in resumed.err
    for name, data in before.items():
        assert (run / "_dgbatch" / "commits" / name).read_bytes() == data
    assert dataset(run) == dataset(tmp_path / "plain" / "out")
    proof = dgbatch(capfd, "verify", str(run), "--json")
    assert (proof.code, proof.json["holds"], proof.json["missing"], proof.json["duplicate"]) == (0, True, 0, 0)
    # what the killed workers left is gone
    assert len(list((run / "data").iterdir())) == len(commits(run)) >= 6


def test_rows_with_settings_of_their_own_and_metrics_go_all_the_way(tmp_path, capfd, fake):
    """The prompt's column holds the settings too; two runs agree in all but the times."""
    own = ['{"seed": 3}', '{"max_new_tokens": 0}', "", '{"stop": ["!generation"]}']
    runs = []
    for name in ("one", "two"):
        job = fake_job(
            tmp_path / name, own, prompt={"template": "Q {{ prompt }}"}, accept=None,
            generation={"overrides": "prompt", "seed": 7}, output={"metrics": True, "columns": []},
        )  # fmt: skip
        assert dgbatch(capfd, "submit", job).code == 3
        runs.append(tmp_path / name / "out")
        assert dgbatch(capfd, "verify", str(runs[-1]), "--json").json["holds"]
    one, two = (dataset(run) for run in runs)
    times = ("queue_s", "prefill_s", "denoise_s")
    assert [{k: v for k, v in row.items() if k not in times} for row in one] == [
        {k: v for k, v in row.items() if k not in times} for row in two
    ]
    assert [row["noise_key"] for row in one] == [
        noise_key(seed, f"r{n:04d}", 0) for seed, n in ((3, 0), (7, 2), (7, 3))
    ]
    assert json.loads(one[2]["text"])["stop"] == ["!generation"]
    assert all(row["prefill_s"] > 0 for row in one)
    told = dgbatch(capfd, "sql", str(runs[0]), "select sum(queue_s) as queue_s from completions", "--json").out
    assert "1.5" in told
    lost = dgbatch(capfd, "sql", str(runs[0]), "select id, error_code from quarantine", "--json").out
    assert "r0001" in lost and "bad_generation" in lost


def test_json_lines_are_objects_while_it_runs_and_the_last_is_that_of_json(tmp_path, capfd, fake):
    job = fake_job(tmp_path, PROMPTS, {"step_s": 0.02})
    left = dgbatch(capfd, "submit", job, "--json-lines")
    lines = [json.loads(line) for line in left.out.splitlines()]
    last = lines.pop()
    states = [line["state"] for line in lines]
    assert sorted(set(states), key=states.index) == ["validating", "in_progress", "finalizing"]
    assert all(line["rows"]["expected"] == 48 for line in lines if line["state"] == "in_progress")
    assert (last["exit_code"], last["run"], last["rows"]["ok"]) == (0, str(tmp_path / "out"), 48)
    again = dgbatch(capfd, "submit", job, "--json")
    assert list(again.json) == list(last)  # one object, and the same one
    assert "fake: already completed" in again.err
    refused = dgbatch(capfd, "submit", job, "--json-lines", "--set", "generation.seed=3")
    assert json.loads(refused.out.splitlines()[-1])["error"]["exit_code"] == refused.code == 2


def test_ctrl_c_drains_says_how_to_resume_and_leaves_with_130(tmp_path):
    job, run = fake_job(tmp_path, PROMPTS, {"step_s": 0.15}), tmp_path / "out"
    process = spawn("submit", job, "--set", "generation.seed=3")
    wait_until(lambda: commits(run), process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert out == ""
    assert "of 6 shards committed" in err
    assert f"resume: dgbatch submit {job} --set generation.seed=3" in err
    assert "Traceback" not in err
    opened = Run.open(str(run))
    assert [event["kind"] for event in opened.events()][-1] == "cancelled"
    assert 1 <= len(opened.commits()) < 6


def test_sigterm_commits_what_is_begun_says_how_to_resume_and_leaves_with_4(tmp_path, capfd, fake):
    # A shard of 64 quick rows, and one of 40 slow ones that is at work when the first is committed.
    prompts = ["!steps=1 x"] * 64 + ["!steps=8 y"] * 40
    job, run = fake_job(tmp_path, prompts, {"step_s": 0.1}, workers={"shard_rows": 64}), tmp_path / "out"
    process = spawn("submit", job)
    wait_until(lambda: commits(run), process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 4
    assert "told to stop (SIGTERM) with" in err and f"resume: dgbatch submit {job}" in err
    assert "Traceback" not in err
    status = dgbatch(capfd, "status", str(run), "--json").json
    assert status["state"] == "failed"
    assert 64 < status["rows"]["ok"] < 104
    assert [name[:14] for name in commits(run)] == ["000000.json", "000001-000000-"]
    resumed = dgbatch(capfd, "submit", job, "--json")
    assert resumed.code == 0
    assert f"({status['rows']['ok']} rows were there already)" in resumed.err


def search(run: Path) -> dict:
    """What attempts.json says of the search that is on."""
    file = run / "_dgbatch" / "attempts.json"
    pieces = json.loads(file.read_text())["pieces"] if file.exists() else {}
    return next((each["search"] for each in pieces.values() if each.get("search", {}).get("on")), {})


def test_driver_killed_in_the_middle_of_a_poison_search_goes_on_where_it_was(tmp_path, capfd, fake):
    prompts = [*PROMPTS[:12], "!die", *PROMPTS[13:16]]
    job, run = fake_job(tmp_path, prompts, retry={"shard_attempts": 1}), tmp_path / "out"
    process = spawn("submit", job)
    wait_until(lambda: (found := search(run)) and found["low"] >= 4 and found["high"] - found["low"] <= 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=LIMIT_S)
    left = search(run)
    assert dgbatch(capfd, "submit", job).code == 3
    events = Run.open(str(run)).events()
    assert len([event for event in events if event["kind"] == "searching"]) == 1  # it was not begun again
    (found,) = (event for event in events if event["kind"] == "row_poisoned")
    assert (found["shard"], found["row"], found["id"], found["code"]) == (1, 4, "r0012", "worker_killed")
    deaths = [event for event in events if event["kind"] == "worker_lost"]
    assert left["low"] == 4 and len(deaths) <= 7
    assert len(dataset(run)) == 15
    assert dgbatch(capfd, "verify", str(run)).code == 0


def test_worker_that_dies_leaves_one_object_on_standard_output(tmp_path):
    """Ray would print its page about a dead process there."""
    process = spawn("submit", fake_job(tmp_path, [*PROMPTS[:8], "a", "!crowd"], retry={"shard_attempts": 1}), "--json")
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 4
    assert json.loads(out)["error"]["exit_code"] == 4
    assert "shard 1 (prompts.parquet, row group 0, rows 8 to 9) failed" in err
    assert "resume: dgbatch submit" in err
    assert "raylet" not in out + err


def test_summary_shows_what_came_out_and_three_commands_that_work(tmp_path, capfd, fake, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left = dgbatch(capfd, "submit", fake_job(tmp_path, PROMPTS[:12]))
    assert left.code == 0
    for words in (
        "fake: completed",
        "12 ok, 0 quarantined",
        "8 of 12 (66.7%)",
        "in 12 = ok 12 + quarantined 0, missing 0",
    ):
        assert words in left.out
    assert "out/data/*.parquet" in left.out
    assert "\n  dgbatch verify out\n" in left.out
    assert '\n  dgbatch sql out "select count(*), avg(accepted::int) from completions"\n' in left.out
    assert "\n  dgbatch export out fake.jsonl" in left.out
    assert max(map(len, left.out.splitlines())) <= 80

    again = dgbatch(capfd, "submit", str(tmp_path / "job.yaml"))
    assert again.code == 0
    assert "fake: already completed" in again.out

    assert dgbatch(capfd, "verify", "out").out.startswith("in 12 = ok 12 + quarantined 0, missing 0, duplicate 0")
    answer = dgbatch(capfd, "sql", "out", "select count(*), avg(accepted::int) from completions")
    assert answer.code == 0
    assert "12" in answer.out and "0.6667" in answer.out
    assert dgbatch(capfd, "export", "out", "fake.jsonl").code == 0
    assert len(Path("fake.jsonl").read_text().splitlines()) == 12

    shutil.move("out", "elsewhere")
    assert dgbatch(capfd, "status", "elsewhere", "--json").json["state"] == "completed"


def test_quarantined_rows_show_in_summary_and_exit_code(tmp_path, capfd, fake, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left = dgbatch(capfd, "submit", fake_job(tmp_path, ["a", None], output={"duckdb": None}))
    assert left.code == 3
    assert "1 ok, 1 quarantined" in left.out
    assert "out/quarantine/*.parquet" in left.out
    assert 'dgbatch sql out "select error_code, count(*) from quarantine group by 1"' in left.out
    assert "dgbatch retry out\n" in left.out
    assert "null_prompt" in dgbatch(capfd, "sql", "out", "select error_code, count(*) from quarantine group by 1").out


def test_summary_names_no_data_where_every_row_is_quarantined(tmp_path, capfd, fake, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left = dgbatch(capfd, "submit", fake_job(tmp_path, ["", None]))
    assert left.code == 3
    assert "out/data" not in left.out and "out/quarantine/*.parquet" in left.out


@pytest.mark.parametrize("where", ["taken", "taken/below.duckdb"])
def test_duckdb_file_that_cannot_be_written_is_found_before_the_work(tmp_path, capfd, fake, where):
    (tmp_path / "taken").write_text("precious")
    job = fake_job(tmp_path, ["a"], output={"duckdb": str(tmp_path / where)})
    left = dgbatch(capfd, "submit", job)
    assert left.code == 2 and "output.duckdb" in left.err
    assert not (tmp_path / "out").exists()
    again = fake_job(tmp_path, ["a"])
    assert dgbatch(capfd, "submit", again).code == 0
    assert dgbatch(capfd, "submit", again, "--set", f"output.duckdb={tmp_path / where}").code == 2
    assert (tmp_path / "taken").read_text() == "precious"


def test_new_run_that_fails_resumes_in_its_own_folder(tmp_path, capfd, fake):
    job = fake_job(tmp_path, ["a", "!crowd"], retry={"shard_attempts": 1})
    assert dgbatch(capfd, "submit", job).code == 4
    left = dgbatch(capfd, "submit", job, "--new-run")
    assert left.code == 4
    assert f"resume: dgbatch submit {job} --set output.path={tmp_path}/out-2" in left.err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("generation.sed=1", "generation.seed"),
        ("generation.seed=x", "generation.seed"),
        ("input.path=nowhere.parquet", "nowhere.parquet"),
        ("prompt.template={{ question }}", "question"),
        ("output.columns=[colour]", "colour"),
        ("model.checkpoint=./nowhere", "nowhere"),
    ],
)
def test_wrong_job_is_one_clear_error_and_nothing_is_started(tmp_path, capfd, monkeypatch, override, words):
    monkeypatch.setattr("dgbatch.runner.driver.run_job", lambda *arguments: pytest.fail("it was started"))
    job = fake_job(tmp_path, PROMPTS[:4])
    left = dgbatch(capfd, "submit", job, "--set", override, "--json")
    assert left.code == 2
    assert words in left.json["error"]["message"]
    assert left.err.splitlines()[-1] != ""
    assert "Traceback" not in left.err
    assert not (tmp_path / "out").exists()


def test_truncated_input_is_refused(tmp_path, capfd):
    job = fake_job(tmp_path, PROMPTS[:4])
    file = tmp_path / "prompts.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    left = dgbatch(capfd, "submit", job)
    assert left.code == 2
    assert left.err.splitlines()[-1].startswith("error: ") and "prompts.parquet" in left.err


def test_output_folder_with_files_of_somebody_else_is_refused_and_untouched(tmp_path, capfd, fake):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    left = dgbatch(capfd, "submit", fake_job(tmp_path, PROMPTS[:4]))
    assert left.code == 2
    assert "thesis.tex" in left.err
    assert os.listdir(tmp_path / "out") == ["thesis.tex"]


def test_output_path_that_cannot_be_a_folder_is_refused(tmp_path, capfd, fake):
    left = dgbatch(capfd, "submit", fake_job(tmp_path, PROMPTS[:4]), "--set", "output.path=prompts.parquet/out")
    assert left.code == 2
    assert "error: output.path: " in left.err and "Traceback" not in left.err
