from __future__ import annotations

import functools
import io
import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

import dgbatch as package
from dgbatch.cli import output
from dgbatch.cli.sql import sql as ask
from dgbatch.errors import RunFailed, RunNotFound
from dgbatch.runner import replay as again
from dgbatch.runner import submit as steps
from dgbatch.runner.run_folder import Run
from dgbatch.runner.spec import load_job
from tests.cli.command import dgbatch
from tests.fake_engine import PATH, fake_job
from tests.runner.small_run import respell


@pytest.fixture(scope="module")
def finished(tmp_path_factory, local_ray) -> Path:
    """A finished run of 12 rows, one of them quarantined."""
    folder = tmp_path_factory.mktemp("finished")
    job = fake_job(folder, [*(f"prompt {i}" for i in range(11)), None])
    steps.submit(job, engine=PATH)
    return folder / "out"


def test_init_writes_a_job_that_loads_and_never_over_another(tmp_path, capfd):
    path = tmp_path / "jobs" / "mine.yaml"
    left = dgbatch(capfd, "init", str(path))
    assert left.code == 0
    assert f"dgbatch submit {path}" in left.err
    assert load_job(str(path)).model.checkpoint == "demo"
    path.write_text("precious")
    again = dgbatch(capfd, "init", str(path), "--json")
    assert again.code == 2
    assert "not overwritten" in again.json["error"]["message"]
    assert path.read_text() == "precious"
    assert dgbatch(capfd, "init", str(path.with_name("other.yaml")), "--json").json == {
        "job": str(path.with_name("other.yaml"))
    }
    assert dgbatch(capfd, "init", "/proc/nowhere/job.yaml").code == 2
    assert f"{path} is a file" in dgbatch(capfd, "init", str(path / "job.yaml")).err


@pytest.fixture
def without_tokenizer(monkeypatch):
    monkeypatch.setattr("dgbatch.runner.preview._tokenizer", lambda spec: None)


def test_plan_counts_and_shows_the_first_prompts(tmp_path, capfd, without_tokenizer):
    job = fake_job(tmp_path, ["Hello there", None, *"abcdefgh"], generation={"samples": 2})
    left = dgbatch(capfd, "plan", job)
    assert left.code == 0
    assert "fake: 10 rows x 2 samples = 20 completions, from 1 file, in 2 shards of at most 8 rows\n" in left.out
    assert f"output: {tmp_path}/out: a new run\n" in left.out
    assert "Hello there" in left.out
    assert "r0001: would be quarantined: null_prompt" in left.out
    assert not (tmp_path / "out").exists()
    answer = dgbatch(capfd, "plan", job, "--json", "--preview", "1", "--set", "input.limit=3").json
    assert (answer["rows"], answer["samples"], answer["expected"], answer["shards"]) == (3, 2, 6, 1)
    again = dgbatch(capfd, "plan", job, "--set", "input.limit=3", "--set", "prompt.system=Be brief.").out.splitlines()[
        -1
    ]
    assert again == f"run it: dgbatch submit {job} --set input.limit=3 --set 'prompt.system=Be brief.'"
    assert [prompt["id"] for prompt in answer["preview"]] == ["r0000"]
    assert answer["files"] == [{"name": "prompts.parquet", "bytes": answer["files"][0]["bytes"], "rows": 10}]


def test_plan_says_what_a_submit_would_find_at_its_output(finished, tmp_path, capfd, without_tokenizer):
    job = str(finished.parent / "job.yaml")
    left = dgbatch(capfd, "plan", job)
    assert f"{finished}: the run that is there is complete, submit has nothing to do\n" in left.out
    left = dgbatch(capfd, "plan", job, "--set", "generation.seed=7")
    assert f"{finished}: submit will refuse. Use --new-run to start anew beside what is there:\n" in left.out
    assert "  generation.seed: 0 -> 7\n" in left.out
    assert left.out.endswith(f"run it: dgbatch submit {job} --set generation.seed=7 --new-run\n")
    shutil.copytree(finished, tmp_path / "half")
    (tmp_path / "half" / "_SUCCESS").unlink()
    sorted((tmp_path / "half" / "_dgbatch" / "commits").iterdir())[0].unlink()
    half = ("--set", f"output.path={tmp_path}/half")
    assert (
        "half: submit goes on with the run that is there, 4 of 12 rows are done\n"
        in dgbatch(capfd, "plan", job, *half).out
    )
    assert dgbatch(capfd, "plan", job, *half, "--json").json["run"] == {"state": "resumes", "done": 4, "changed": []}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    answer = dgbatch(capfd, "plan", job, "--set", f"output.path={tmp_path}/mine", "--json").json["run"]
    assert answer["state"] == "refused" and "thesis.tex" in answer["changed"][0]


def test_plan_shows_what_a_row_says_about_its_own_sampling(tmp_path, capfd, without_tokenizer):
    """The prompt's own column holds the settings: any text column may."""
    own = '{"max_new_tokens": 5, "stop": ["[/b]", "\\n"]}'
    job = fake_job(tmp_path, [own, '{"seed": "x"}'], generation={"overrides": "prompt"})
    left = dgbatch(capfd, "plan", job)
    assert left.code == 0
    assert 'r0000 overrides: max_new_tokens=5, stop=["[/b]", "\\n"]' in left.out
    assert "r0001: would be quarantined: bad_generation: column 'prompt': seed: 'x' is text; it takes" in left.out
    first, second = dgbatch(capfd, "plan", job, "--json").json["preview"]
    assert first["generation"] == {"max_new_tokens": 5, "stop": ["[/b]", "\n"]} and first["error"] is None
    assert second["generation"] == {} and second["error"].startswith("bad_generation: ")


def test_plan_shows_the_beginning_of_a_long_prompt(tmp_path, capfd, without_tokenizer):
    job = fake_job(tmp_path, ["a" * 5000])
    left = dgbatch(capfd, "plan", job)
    assert 3900 < left.out.count("a") < 4200
    assert "... and 1,006 characters more" in left.out
    assert len(dgbatch(capfd, "plan", job, "--json").json["preview"][0]["text"]) == 5006


def test_plan_of_a_wrong_job_is_one_error(tmp_path, capfd):
    left = dgbatch(capfd, "plan", str(tmp_path / "nowhere.yaml"))
    assert left.code == 2
    assert left.out == ""
    assert left.err.startswith("error: ")


def test_status_of_a_finished_run(finished, capfd):
    left = dgbatch(capfd, "status", str(finished))
    assert left.code == 0
    for words in ("completed", "12 of 12: 11 ok, 1 quarantined", "2 of 2", "7 of 11 (63.6%)"):
        assert words in left.out
    answer = dgbatch(capfd, "status", str(finished), "--json").json
    assert answer["state"] == "completed"
    assert answer["rows"] == {"expected": 12, "ok": 11, "quarantined": 1}


@pytest.mark.parametrize("command", ["status", "verify"])
def test_folder_without_a_run_is_not_found(tmp_path, capfd, command):
    left = dgbatch(capfd, command, str(tmp_path), "--json")
    assert left.code == 2
    assert left.json["error"]["type"] == "RunNotFound"
    with pytest.raises(RunNotFound):
        package.open_run(tmp_path)


@pytest.fixture
def fake_replay(monkeypatch):
    monkeypatch.setattr(again, "replay", functools.partial(again.replay, engine=PATH))


def test_verify_generates_rows_again_and_compares_their_tokens(finished, capfd, fake_replay):
    left = dgbatch(capfd, "verify", str(finished), "--replay", "5")
    assert left.code == 0
    assert left.out.splitlines()[1:] == ["replayed 5 of 11 rows: token for token the same"]
    answer = dgbatch(capfd, "verify", str(finished), "--replay", "999", "--json")
    assert (answer.code, answer.json["replayed"], answer.json["replay_mismatches"]) == (0, 11, 0)
    assert answer.json["holds"] and answer.json["examples"] == {}


def test_verify_shows_where_the_tokens_of_a_row_differ(finished, capfd, tmp_path, fake_replay):
    spoiled = tmp_path / "spoiled"
    shutil.copytree(finished, spoiled)
    respell(Run.open(str(spoiled)), 1, 0, [7] * 10)
    assert dgbatch(capfd, "verify", str(spoiled)).code == 0
    left = dgbatch(capfd, "verify", str(spoiled), "--replay", "11")
    assert left.code == 4
    assert left.out.splitlines()[1:3] == [
        "replayed 11 of 11 rows: 1 not the same",
        "  replay_mismatches: r0008: token 1 is 7, generated again 56",
    ]
    answer = dgbatch(capfd, "verify", str(spoiled), "--replay", "11", "--json")
    assert (answer.code, answer.json["replay_mismatches"], answer.json["holds"]) == (4, 1, False)


def test_verify_loads_no_model_unless_it_is_asked_to_replay(finished, capfd, monkeypatch):
    monkeypatch.setattr(again, "replay", lambda *arguments: pytest.fail("it was replayed"))
    answer = dgbatch(capfd, "verify", str(finished), "--json").json
    assert (answer["replayed"], answer["replay_mismatches"]) == (0, 0)
    assert dgbatch(capfd, "verify", str(finished), "--replay", "-1").code == 2


def test_ls_lists_the_runs_below_a_folder(finished, capfd, tmp_path):
    left = dgbatch(capfd, "ls", str(finished.parent))
    assert left.code == 0
    row = next(line for line in left.out.splitlines() if "completed" in line)
    assert row.split()[1:6] == ["fake", "completed", "12", "12", "1"]
    (answer,) = dgbatch(capfd, "ls", str(finished.parent), "--json").json["runs"]
    assert (answer["run"], answer["state"], answer["rows"]["ok"]) == (str(finished), "completed", 11)
    assert "no runs below" in dgbatch(capfd, "ls", str(tmp_path)).err
    assert dgbatch(capfd, "ls", str(tmp_path / "nowhere")).code == 2


def test_verify_prints_the_equation_and_exits_by_it(finished, capfd):
    left = dgbatch(capfd, "verify", str(finished))
    assert left.code == 0
    assert left.out == "in 12 = ok 11 + quarantined 1, missing 0, duplicate 0, checksum errors 0\n"


def test_verify_of_a_damaged_run_names_the_damage_and_exits_with_4(tmp_path, capfd, local_ray):
    job = fake_job(tmp_path, ["a", "b"])
    steps.submit(job, engine=PATH)
    next((tmp_path / "out" / "data").glob("*.parquet")).unlink()
    left = dgbatch(capfd, "verify", str(tmp_path / "out"))
    assert left.code == 4
    assert "in 2 != ok 0 + quarantined 0, missing 2" in left.out
    assert "r0000" in left.out
    answer = dgbatch(capfd, "verify", str(tmp_path / "out"), "--json")
    assert (answer.code, answer.json["missing"], answer.json["holds"]) == (4, 2, False)
    assert (answer.json["damaged"], answer.json["forgotten"]) == ([0], [])
    assert f"dgbatch verify {tmp_path}/out --repair" in left.out


def test_submit_of_a_complete_run_that_lost_a_file_says_how_to_make_it_anew(tmp_path, capfd, local_ray):
    job = fake_job(tmp_path, ["a", "b"])
    run, records = tmp_path / "out", tmp_path / "out" / "_dgbatch" / "commits"
    steps.submit(job, engine=PATH)
    (data,) = (run / "data").glob("*.parquet")
    before = pq.read_table(data)
    data.unlink()
    with pytest.raises(RunFailed, match=f"files of it are gone since: data/{data.name}.*verify {run} --repair"):
        steps.submit(job, engine=PATH)
    left = dgbatch(capfd, "verify", str(run), "--repair")
    assert left.code == 4
    assert "It did not hold. 1 shard forgotten: submit the job again to make them anew." in left.out
    assert not (run / "_SUCCESS").exists() and not list(records.iterdir())
    steps.submit(job, engine=PATH)
    (again,) = (run / "data").glob("*.parquet")
    assert pq.read_table(again).equals(before)
    answer = dgbatch(capfd, "verify", str(run), "--repair", "--json")
    assert (answer.code, answer.json["holds"], answer.json["forgotten"]) == (0, True, [])
    assert (run / "_SUCCESS").exists()


def test_sql_answers_for_people_and_for_programs(finished, capfd):
    query = "select count(*) as n, avg(accepted::int) as share, null as nothing from completions"
    left = dgbatch(capfd, "sql", str(finished), query)
    assert left.code == 0
    assert left.out.splitlines()[-2].split() == ["11", "0.6364", "-"]
    answer = dgbatch(capfd, "sql", str(finished), query, "--json").json
    assert answer["columns"] == ["n", "share", "nothing"]
    assert answer["rows"] == [[11, pytest.approx(7 / 11), None]]


def test_digits_of_a_number_stay_together(finished, capfd):
    left = dgbatch(capfd, "sql", str(finished), "select 2024 as year, 1234567 as id")
    assert left.out.splitlines()[-2].split() == ["2024", "1234567"]


@pytest.mark.parametrize(("width", "is_table"), [(80, False), (300, True)])
def test_answer_too_wide_for_the_terminal_is_shown_a_column_a_line(finished, monkeypatch, width, is_table):
    screen = Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False, markup=False)
    monkeypatch.setattr(output, "console", lambda: screen)
    ask(str(finished), "select *, repeat('y', 700) as long from completions limit 2")
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in screen.file.getvalue().splitlines()]
    assert ("row 2" in lines) != is_table
    assert any(line.split()[:1] == ["prompt_tokens"] for line in lines) != is_table
    assert "(700 characters)" in " ".join(lines)
    assert max(map(len, lines)) <= width


def test_sql_over_a_damaged_file_says_that_the_run_is_damaged(finished, capfd, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    data = min((tmp_path / "run" / "data").glob("*.parquet"))
    data.write_bytes(data.read_bytes()[:-200])
    left = dgbatch(capfd, "sql", str(tmp_path / "run"), "select count(tokens) from completions")
    assert left.code == 2
    assert "the run cannot be read: " in left.err and f"dgbatch verify {tmp_path}/run" in left.err
    assert "The tables are" not in left.err
    data.unlink()
    left = dgbatch(capfd, "sql", str(tmp_path / "run"), "select 1 from completions")
    assert f"{data} is gone. Restore it" in left.err


def test_wrong_sql_is_one_error_in_duckdbs_words(finished, capfd):
    left = dgbatch(capfd, "sql", str(finished), "select colour from completions")
    assert left.code == 2
    assert "colour" in left.err and "Traceback" not in left.err


def test_sql_says_how_many_rows_it_does_not_show(finished, capfd):
    left = dgbatch(capfd, "sql", str(finished), "select * from range(1005)")
    assert "5 more rows" in left.err


def test_columns_of_one_name_are_all_answered(finished, capfd):
    assert dgbatch(capfd, "sql", str(finished), "select 1 as n, 2 as n", "--json").json["rows"] == [[1, 2]]


def test_values_that_python_lacks_are_shown_as_text(finished, capfd):
    query = "select make_timestamp_ns(1) as t, date '20000-01-01' as d"
    shown = dgbatch(capfd, "sql", str(finished), query, "--json").json["rows"]
    assert shown == [["1970-01-01 00:00:00.000000001", "20000-01-01"]]
    nested = dgbatch(capfd, "sql", str(finished), "select {'d': date '20000-01-01'} as s")
    assert nested.code == 2 and "column 's' cannot be shown" in nested.err


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv", "duckdb"])
def test_export_knows_the_format_by_the_ending(finished, capfd, tmp_path, ending):
    target = tmp_path / f"answers.{ending}"
    left = dgbatch(capfd, "export", str(finished), str(target), "--json")
    assert left.code == 0
    assert left.json == {"file": str(target), "format": ending, "rows": 11, "complete": True}
    assert "wrote 11 rows" in left.err
    if ending == "parquet":
        assert pq.read_table(target).num_rows == 11
    if ending == "jsonl":
        assert json.loads(target.read_text().splitlines()[0])["text"] == "0 tpmorp"


def test_export_of_half_a_run_says_so(finished, capfd, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(finished, half)
    (half / "_SUCCESS").unlink()
    left = dgbatch(capfd, "export", str(half), str(tmp_path / "x.csv"))
    assert left.code == 0 and "the run is not complete: 12 rows are expected" in left.err


def test_export_of_an_unknown_ending_names_the_formats(finished, capfd, tmp_path):
    left = dgbatch(capfd, "export", str(finished), str(tmp_path / "answers.xlsx"))
    assert left.code == 2
    assert "parquet, jsonl, csv, duckdb" in left.err
    assert dgbatch(capfd, "export", str(finished), str(tmp_path / "x"), "--format", "csv").code == 0


def test_doctor_tells_what_is_there(capfd):
    left = dgbatch(capfd, "doctor")
    assert "pyarrow" in left.out
    answer = dgbatch(capfd, "doctor", "--json")
    assert answer.code == left.code
    assert {"python", "ray", "torch", "disk"} <= {check["name"] for check in answer.json["checks"]}


def test_python_api_does_what_the_commands_do(tmp_path, local_ray, monkeypatch):
    monkeypatch.setattr(steps, "submit", functools.partial(steps.submit, engine=PATH))
    job = fake_job(tmp_path, ["a", "b"])
    assert package.plan(job, ["input.limit=1"]).rows == 1
    done = package.submit(job, ["generation.samples=2"])
    assert done.exit_code == 0
    assert len(package.open_run(tmp_path / "out").commits()) == 1
