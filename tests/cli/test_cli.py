from __future__ import annotations

import subprocess
import sys
import time

import pytest

import dgbatch as package
from tests.cli.command import dgbatch

COMMANDS = ("init", "plan", "submit", "status", "ls", "verify", "retry", "sql", "export", "doctor")


def test_help_lists_every_command_and_the_exit_codes(capfd):
    left = dgbatch(capfd, "--help")
    assert left.code == 0
    for command in COMMANDS:
        assert f" {command} " in left.out
    assert "130 cancelled" in " ".join(left.out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(capfd, command):
    left = dgbatch(capfd, command, "--help")
    assert left.code == 0
    assert "--json" in left.out


def test_help_imports_nothing_heavy():
    """dgbatch --help answers in under 0.3 s; on a busy machine only what it imports can be held to that."""
    code = (
        "import sys\n"
        "from dgbatch.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = ('ray', 'torch', 'pyarrow', 'duckdb', 'pydantic', 'jinja2', 'yaml')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_version_is_printed(capfd):
    assert dgbatch(capfd, "--version").out == f"dgbatch {package.__version__}\n"


def test_unknown_command_is_wrong_use(capfd):
    left = dgbatch(capfd, "sumbit")
    assert left.code == 2
    assert "sumbit" in left.err


def test_reader_that_has_seen_enough_ends_the_command_quietly():
    process = subprocess.Popen(
        [sys.executable, "-m", "dgbatch", "doctor"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    deadline = time.monotonic() + 60
    errors = process.stderr.read()
    process.stderr.close()
    process.wait(deadline - time.monotonic())
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors


def test_python_api_names_its_functions_and_imports_nothing_at_first():
    code = "import sys, dgbatch; print(dgbatch.__all__, [m for m in ('ray', 'pyarrow', 'typer') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "['open_run', 'plan', 'submit'] []"
