from __future__ import annotations

import os
import sys

import pytest

from dgbatch.cli import output
from dgbatch.cli.output import counting, invoked_as, painted


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
