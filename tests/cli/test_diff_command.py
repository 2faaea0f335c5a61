from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from dgbatch.cli import output
from tests.cli.command import dgbatch
from tests.runner.conftest import make_job, prompts
from tests.runner.small_run import commit_all, new_run, write_attempt

__all__ = ["make_job"]


@pytest.fixture
def runs(make_job) -> tuple[str, str, str]:
    """A run, the same once more, and one with another seed whose first shard has other texts."""
    settings = ("input.id=id", "workers.shard_rows=4", "accept.rules=[{equals: answer}]")
    table = prompts(8)
    a, same = (commit_all(new_run(make_job(table, f"output.path={name}", *settings))) for name in ("a", "same"))
    other = new_run(make_job(table, "output.path=other", *settings, "generation.seed=7"))
    first, second = other.plan.shards
    assert other.commit(write_attempt(other, first, text="nothing \x1b[2J <b>like</b> it"))
    assert other.commit(write_attempt(other, second))
    return a.path, same.path, other.path


def test_difference_is_shown_and_leaves_with_0_unless_asked_for_more(capfd, runs):
    a, same, other = runs
    left = dgbatch(capfd, "diff", a, other)
    assert left.code == 0
    lines = [line.rstrip() for line in left.out.splitlines()]
    assert "  generation.seed: 0 -> 7" in lines
    assert "          4  are the same, token by token (50.0%)" in lines
    assert "          4  have another text (50.0%)" in lines
    assert "  accepted: 4 in both, 4 in A alone, 0 in B alone, 0 in neither" in lines
    assert any(line.split() == ["accepted", "100.0%", "50.0%", "-50.0", "pts"] for line in lines)
    assert r"     {+nothing \x1b[2J <b>like</b> it+}" in lines
    assert dgbatch(capfd, "diff", a, other, "--exit-code").code == 1
    assert dgbatch(capfd, "diff", a, same, "--exit-code").code == 0
    assert "settings, input, model and versions are the same" in dgbatch(capfd, "diff", a, same).out


def test_json_holds_both_runs_counts_and_examples(capfd, runs):
    a, _, other = runs
    answer = dgbatch(capfd, "diff", a, other, "--json", "--examples", "1").json
    assert (answer["a"]["run"], answer["b"]["run"]) == (a, other)
    assert answer["settings"]["deciding"] == [{"setting": "generation.seed", "a": 0, "b": 7}]
    assert (answer["rows"]["both"], answer["rows"]["same"], answer["rows"]["agree"]) == (8, 4, False)
    (example,) = answer["rows"]["examples"]
    assert example["b"]["text"] == "nothing \x1b[2J <b>like</b> it"


def test_terminal_of_80_columns_is_never_overrun(capfd, runs, monkeypatch):
    monkeypatch.setattr(output, "console", lambda: Console(force_terminal=True, color_system=None, width=80))
    shown = dgbatch(capfd, "diff", runs[0], runs[2]).out.splitlines()
    assert max(map(len, shown)) <= 80


def test_what_is_no_run_or_cannot_be_written_is_refused(capfd, runs, tmp_path):
    wrong = dgbatch(capfd, "diff", runs[0], str(tmp_path / "nowhere"), "--json")
    assert wrong.code == 2 and "no run here" in wrong.json["error"]["message"]
    refused = dgbatch(capfd, "diff", runs[0], runs[1], "--html", str(tmp_path))
    assert refused.code == 2 and "--html" in refused.err
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")) == []


def test_page_is_written_beside_what_is_printed(capfd, runs, tmp_path):
    page = tmp_path / "pages" / "diff.html"
    left = dgbatch(capfd, "diff", runs[0], runs[2], "--html", str(page))
    assert left.code == 0 and "diff.html" in left.err
    assert "<del>" in Path(page).read_text() and "<b>like</b>" not in Path(page).read_text()


def test_runs_of_other_rows_are_compared_without_a_traceback(capfd, runs, make_job):
    table = prompts(2).set_column(0, "id", pa.array(["x", "y"]))
    strange = commit_all(new_run(make_job(table, "output.path=strange", "input.id=id")))
    left = dgbatch(capfd, "diff", runs[0], strange.path)
    assert left.code == 0
    assert "No id is in both runs, so no row can be compared: A has rows like 'r0', B like 'x'." in left.out


def test_page_is_written_over_a_page_of_ours_and_over_nothing_else(capfd, runs, tmp_path):
    page, thesis = tmp_path / "diff.html", tmp_path / "thesis.html"
    for _ in range(2):
        assert dgbatch(capfd, "diff", runs[0], runs[2], "--html", str(page)).code == 0
    thesis.write_text("my thesis")
    left = dgbatch(capfd, "diff", runs[0], runs[2], "--html", str(thesis))
    assert (left.code, thesis.read_text()) == (2, "my thesis") and "is no diff of dgbatch" in left.err


@pytest.mark.parametrize("command", [("report", "--out"), ("diff", "--html"), ("export",)])
def test_file_of_a_uri_is_refused_and_no_folder_is_made_of_it(capfd, runs, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    name, *option = command
    left = dgbatch(capfd, name, runs[0], *runs[2:] * (name == "diff"), *option, "s3://bucket/x.jsonl")
    assert left.code == 2 and "not into a store" in left.err
    assert sorted(tmp_path.iterdir()) == before
