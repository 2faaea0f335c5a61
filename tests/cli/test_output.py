from __future__ import annotations

import os
import sys

import pyarrow as pa
import pytest

from dgbatch.cli import output
from dgbatch.cli.output import counting, invoked_as, painted, print_error, say, show, table
from dgbatch.errors import OutputError
from dgbatch.runner.storage.lock import lock, owner
from dgbatch.runner.verify import verify as prove
from tests.cli.command import dgbatch
from tests.runner.conftest import make_job, prompts
from tests.runner.small_run import commit_all, new_run

__all__ = ["make_job"]

CLEAR = "a:100:b \x1b[2J\x9b2J"  # as an id may be: it would clear the screen, and become a picture


@pytest.mark.parametrize(
    ("argv", "on_path", "typed"),
    [
        (".venv/bin/dgbatch", False, os.path.join(".venv", "bin", "dgbatch")),
        ("/work/here/.venv/bin/dgbatch", True, "dgbatch"),
        ("/usr/lib/python3/pytest/__main__.py", False, "dgbatch"),
    ],
)
def test_next_commands_are_named_as_this_one_was_typed(tmp_path, monkeypatch, argv, on_path, typed):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [argv])
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if on_path else None)
    assert invoked_as() == typed


@pytest.mark.parametrize(
    ("line", "styles"),
    [
        ("error: out: this run was begun", [("error:", "bold red")]),
        ("  generation.seed: 0 -> 7", [("0", "red"), ("7", "green")]),
        ("    - 4 rows", [("    - 4 rows", "red")]),
        ("    + 5 rows", [("    + 5 rows", "green")]),
        ("Put it back -> or not", []),
    ],
)
def test_what_was_is_red_and_what_is_is_green(line, styles):
    text = painted(line)
    assert text.plain == line
    assert [(line[span.start : span.end], span.style) for span in text.spans] == styles


def test_where_no_terminal_is_a_count_is_a_line_now_and_then(monkeypatch, capsys):
    clock = iter([0.0, 5.0, 11.0, 11.0, 12.0, 22.0, 22.0])
    monkeypatch.setattr(output.time, "monotonic", lambda: next(clock))
    with counting("rows generated again") as tell:
        for done in (1, 2, 3, 4000):
            tell(done, 5000)
    assert capsys.readouterr().err.splitlines() == [
        "rows generated again: 2 of 5,000",
        "rows generated again: 4,000 of 5,000",
    ]


def test_nothing_that_is_shown_moves_the_cursor_or_becomes_a_picture(capfd):
    show(CLEAR, table([CLEAR], [[CLEAR]]))
    say(CLEAR)
    print_error(OutputError(CLEAR))
    out, err = capfd.readouterr()
    assert (out.count(r"a:100:b \x1b[2J\x9b2J"), err.count(r"a:100:b \x1b[2J\x9b2J")) == (3, 2)
    assert not {"\x1b", "\x9b"} & {*out, *err}


@pytest.mark.parametrize(
    "query", ["select chr(27) || '[2J' as \"a:100:b\"", "select id, text, 1 as n from completions"]
)
def test_sql_shows_what_a_row_holds_and_does_not_do_it(make_job, capfd, query):
    rows = prompts(1).set_column(2, "answer", pa.array(["\x1b[2J"]))
    run = commit_all(new_run(make_job(rows, "input.id=id", "accept.rules=[{equals: answer}]")))
    left = dgbatch(capfd, "sql", run.path, query)
    assert left.code == 0
    assert r"\x1b[2J" in left.out and "\x1b" not in left.out


def test_plan_shows_ids_and_prompts_as_they_are(make_job, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("dgbatch.runner.preview._tokenizer", lambda spec: None)
    rows = prompts(2).set_column(0, "id", pa.array(["[/a]:100:", "[red]b"]))
    rows = rows.set_column(1, "prompt", pa.array(["\x1b[2J", "x"]))
    make_job(rows)
    left = dgbatch(capfd, "plan", str(tmp_path / "job.yaml"), "--set", "input.id=id")
    assert left.code == 0
    assert "[/a]:100:" in left.out and "[red]b" in left.out
    assert r"user: \x1b[2J" in left.out and "\x1b" not in left.out


def test_plan_says_what_was_in_flight_also_where_the_path_is_a_secret(make_job, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("dgbatch.runner.preview._tokenizer", lambda spec: None)
    monkeypatch.setenv("BUCKET", str(tmp_path / "hidden"))
    run = new_run(make_job(prompts(2), "output.path=${BUCKET}/out"))
    run.note_canvases("cpu", 3, [])
    left = dgbatch(capfd, "plan", str(tmp_path / "job.yaml"), "--set", "output.path=${BUCKET}/out", "--json")
    assert left.json["in_flight"] == {"cpu": {"in_flight": 3, "curve": []}}
    assert left.json["output"] == "${BUCKET}/out"


def test_verify_that_repairs_holds_the_run_for_as_long_as_it_looks(make_job, capfd, monkeypatch):
    """Or a retry that ends meanwhile would have its records taken back."""
    run = commit_all(new_run(make_job(prompts(4), "input.id=id")))
    run.finalise()
    held = []

    def watched(*args):
        held.append(owner(run.path) is not None)
        return prove(*args)

    monkeypatch.setattr("dgbatch.runner.verify.verify", watched)
    assert dgbatch(capfd, "verify", run.path).code == 0
    assert dgbatch(capfd, "verify", run.path, "--repair").code == 0
    assert held == [False, True]
    with lock(run.path):
        assert dgbatch(capfd, "verify", run.path, "--repair").code == 5
    assert held == [False, True]
