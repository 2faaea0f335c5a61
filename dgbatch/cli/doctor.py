"""`dgbatch doctor`: what this machine has, and what to install."""

from __future__ import annotations

from dataclasses import asdict

from dgbatch.cli.options import AsJson


def doctor(json: AsJson = False) -> None:
    """Check Python, packages, GPUs, memory and disk, and say what to install.

    Exit code 2 when something that is needed is missing.
    """
    import typer

    from dgbatch.cli.output import print_json, show, table
    from dgbatch.runner.doctor import examine

    checks = examine()
    missing = any(check.ok is False for check in checks)
    if json:
        print_json({"ok": not missing, "checks": [asdict(check) for check in checks]})
    else:
        marks = {True: "ok", False: "MISSING", None: "-"}
        show(table(("check", "", "found", "what to do"), [(c.name, marks[c.ok], c.found, c.fix) for c in checks]))
    raise typer.Exit(2 if missing else 0)
