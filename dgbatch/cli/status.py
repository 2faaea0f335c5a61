"""`dgbatch status`: where a run stands."""

from __future__ import annotations

from dgbatch.cli.options import AsJson, RunFolder


def status(run: RunFolder, json: AsJson = False) -> None:
    """Show the state, counts and speed of a run, while it works and afterwards."""
    from dgbatch.cli.output import plural, print_json, shown, table
    from dgbatch.cli.output import show as display
    from dgbatch.runner.progress import clock, rate
    from dgbatch.runner.run_folder import Run
    from dgbatch.runner.status import status_of

    found = status_of(Run.open(run))
    if json:
        print_json(found.to_json())
        return
    tally = found.tally
    rows = [
        ("state", found.state + (f" ({found.reason})" if found.reason else "")),
        ("rows", f"{tally.rows:,} of {found.expected:,}: {tally.ok:,} ok, {tally.quarantined:,} quarantined"),
        ("shards", f"{tally.shards:,} of {found.shards:,}"),
        ("tokens", f"{tally.tokens:,}, {rate(found.tokens_per_s)} per second"),
    ]
    if found.judged:
        rows.insert(2, ("accepted", share(tally.accepted, tally.ok)))
    if found.eta_s is not None:
        rows.append(("workers", f"{plural(found.workers, 'worker')}, done in {clock(found.eta_s)}"))
    display(table(("run", shown(found.name)), rows))


def share(part: int, whole: int) -> str:
    """987 of 1,000 (98.7 %)."""
    return f"{part:,} of {whole:,} ({part / whole:.1%})" if whole else "none"
